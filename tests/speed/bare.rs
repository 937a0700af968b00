//! The limit that others are held against: an actix-web handler that answers the same bytes, after
//! one pipelined round trip to Redis where the work needs one.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::Outcome;
use crate::setup::{free_port, wait_for};

/// A process of its own, as Gapura is.
pub struct Bare {
    process: Child,
    port: u16,
}

impl Bare {
    /// A handler that answers these bytes, headers and all.
    pub fn start(same: &Same, redis: Option<&str>) -> Outcome<Self> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["bare", &port.to_string(), &same.body, &same.headers])
            .args(redis)
            .stderr(Stdio::null());
        let process = command.spawn()?;
        wait_for(port, Duration::from_secs(5))?;
        Ok(Self { process, port })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An answer to be given again.
pub struct Same {
    pub body: String,
    /// A line each.
    pub headers: String,
}

fn headers(lines: &str) -> Outcome<Vec<(HeaderName, HeaderValue)>> {
    let lines = lines.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| Ok((name.parse()?, value.parse()?)))
        .collect()
}

pub async fn serve(arguments: &[String]) -> Outcome<()> {
    let port: u16 = arguments[0].parse()?;
    let body: &'static str = Box::leak(arguments[1].clone().into_boxed_str());
    let headers: &'static [(HeaderName, HeaderValue)] = headers(&arguments[2])?.leak();
    let redis = match arguments.get(3) {
        Some(url) => Some(redis::Client::open(url.as_str())?),
        None => None,
    };
    let cores = std::thread::available_parallelism()?.get();
    HttpServer::new(move || {
        let redis = redis.clone();
        App::new()
            .data_factory(move || {
                let redis = redis.clone();
                async move {
                    Ok::<_, redis::RedisError>(match redis {
                        Some(client) => Some(client.get_multiplexed_async_connection().await?),
                        None => None,
                    })
                }
            })
            .default_service(web::to(
                move |redis: web::Data<Option<redis::aio::MultiplexedConnection>>| async move {
                    if let Some(connection) = redis.as_ref() {
                        let mut pipeline = redis::pipe();
                        pipeline.get("bare").expire("bare", 72_000);
                        let mut connection = connection.clone();
                        let _: Result<(Option<String>, bool), _> =
                            pipeline.query_async(&mut connection).await;
                    }
                    let mut answer = HttpResponse::Ok().body(body);
                    for (name, value) in headers {
                        answer.headers_mut().insert(name.clone(), value.clone());
                    }
                    answer
                },
            ))
    })
    .workers(cores)
    .bind(("127.0.0.1", port))?
    .run()
    .await?;
    Ok(())
}
