//! The `quicket` service: configuration, build, bind, run, drain, exit code.

mod allocator;
mod app;

use std::process::ExitCode;

use quicket::config::{Command, Config, LogFormat};
use quicket::{ServeError, Server};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// BSD's `EX_USAGE`: the caller's mistake, not worth a restart.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    allocator::use_small_pages();
    let environment = |name: &str| std::env::var_os(name);
    let config = match Config::parse(std::env::args_os(), &environment) {
        Ok(Command::Run(config)) => config,
        Ok(Command::CheckConfig(_)) => {
            println!("the configuration is good");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("quicket: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    start_log(&config);
    match quicket::raise_descriptor_limit() {
        Ok(limit) => tracing::debug!(?limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it was"),
    }
    let runtime = match allocator::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quicket: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(config)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(left) => {
            // clients that vanished without a word, most likely: not a failure of this process
            tracing::warn!(left, "sessions were cut off at the end of the grace period");
            ExitCode::SUCCESS
        }
        Err(ServeError::Config(error)) => {
            eprintln!("quicket: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            eprintln!("quicket: {error}");
            ExitCode::FAILURE
        }
    };
    // what still runs must not hold the process up
    runtime.shutdown_background();
    code
}

/// Runs until a signal; gives the number of sessions that did not end in time.
async fn run(config: Config) -> Result<usize, ServeError> {
    let webtransport = config.engine.transports.webtransport;
    let secure = config.tls.is_some() && config.listen.tls;
    let routes = app::page::routes(&config.engine.path);
    let (redis, limits) = (config.redis.clone(), config.limits.clone());
    let hindrances = app::page::hindrances(&config);
    let server = Server::builder().config(config).routes(routes).build().await?;
    let whiteboard = app::whiteboard::install(&server, &redis, &limits)?;
    // before anybody can know that it is up: what comes right behind the first answer ends it in order, too
    let signals = signals();
    let address = server.bind().await?;
    let scheme = if secure { "https" } else { "http" };
    tracing::info!("the whiteboard is at {scheme}://localhost:{}", address.port());
    if webtransport {
        tracing::info!("WebTransport is on UDP {}", address.port());
    }
    for why in hindrances {
        tracing::warn!("the whiteboard's own page cannot connect to this server: {why}");
    }
    match signals {
        Ok(signals) => drop(tokio::spawn(wait_for_signals(signals, server.clone()))),
        Err(error) => tracing::error!(%error, "cannot listen for signals"),
    }
    let left = server.serve().await?;
    whiteboard.finish().await;
    tracing::info!("stopped");
    Ok(left)
}

/// SIGTERM and SIGINT: from now on neither ends the process by itself.
fn signals() -> std::io::Result<[Signal; 2]> {
    Ok([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?])
}

/// The first SIGTERM or SIGINT ends in order, the second at once.
async fn wait_for_signals([mut term, mut int]: [Signal; 2], server: Server) {
    let mut asked = false;
    loop {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        if asked {
            tracing::warn!(signal = name, "stopping at once");
            std::process::exit(1);
        }
        asked = true;
        tracing::info!(signal = name, sessions = server.session_count(), "stopping");
        server.shutdown();
    }
}

fn start_log(config: &Config) {
    let filter = EnvFilter::new(&config.log.filter);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
