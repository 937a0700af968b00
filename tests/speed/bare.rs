//! The limit that others are held against: an actix-web handler that answers the same bytes, after
//! one pipelined round trip to Redis where the work needs one.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};

use crate::Outcome;
use crate::setup::{free_port, wait_for};

/// A process of its own, as Gapura is.
pub struct Bare {
    process: Child,
    port: u16,
}

impl Bare {
    pub fn start(body: &str, redis: Option<&str>) -> Outcome<Self> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["bare", &port.to_string(), body])
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

pub async fn serve(arguments: &[String]) -> Outcome<()> {
    let port: u16 = arguments[0].parse()?;
    let body: &'static str = Box::leak(arguments[1].clone().into_boxed_str());
    let redis = match arguments.get(2) {
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
                    HttpResponse::Ok()
                        .content_type("application/json")
                        .body(body)
                },
            ))
    })
    .workers(cores)
    .bind(("127.0.0.1", port))?
    .run()
    .await?;
    Ok(())
}
