/// A request makes and drops dozens of small things, at which the system's allocator is slower.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[actix_web::main]
async fn main() {
    let code = match gapura::command::run().await {
        Ok(()) => 0,
        Err(problem) => {
            use std::io::Write;
            // Nobody may be reading; the exit code says it too.
            let _ = writeln!(std::io::stderr(), "gapura: {problem}");
            1
        }
    };
    // At once: returning would wait for every thread that waits for a database that hangs.
    std::process::exit(code)
}
