use std::process::ExitCode;

#[actix_web::main]
async fn main() -> ExitCode {
    match gapura::command::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("gapura: {problem}");
            ExitCode::FAILURE
        }
    }
}
