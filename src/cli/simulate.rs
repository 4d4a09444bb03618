//! `ocelli simulate`: serves a video file as an RTSP camera.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Failure;
use crate::source::{Simulator, SimulatorConfig};

/// Interval at which the end of the clip and signals are checked.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli simulate street.mp4
  ocelli simulate street.mp4 --listen 127.0.0.1:0 --path gate --once")]
pub(crate) struct Args {
    /// Video file to serve as a live H.264 camera
    file: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8555")]
    listen: SocketAddr,
    /// Path of the stream: rtsp://HOST:PORT/PATH
    #[arg(long, default_value = "demo", value_parser = stream_path)]
    path: String,
    /// Start at this position of the clip, for example `48s`; later rounds play it whole
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "TIME")]
    start: Duration,
    /// Frames per second instead of the file's own rate
    #[arg(long, value_parser = frame_rate)]
    fps: Option<f64>,
    /// Ask viewers for this user name (digest authentication)
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// Password for --user; visible in the process list, so no real password belongs here
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// Start with the first viewer and end with the file, instead of playing for ever
    #[arg(long)]
    once: bool,
    /// Draw the frame number into the bottom left corner as black and white cells, for tests
    #[arg(long)]
    counter: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // Registered before the server starts, so that no signal meets the default handler.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let simulator = Simulator::start(&SimulatorConfig {
        file: args.file,
        listen: args.listen,
        path: args.path,
        fps: args.fps,
        start: args.start,
        credentials: args.user.zip(args.password),
        once: args.once,
        counter: args.counter,
    })?;
    // Scripts read this line; a closed pipe does not stop the server.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", simulator.url()).and_then(|()| out.flush());
    while !stop.load(Ordering::Acquire) && !simulator.finished() {
        std::thread::park_timeout(POLL);
    }
    drop(simulator);
    Ok(())
}

fn stream_path(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if path.is_empty() || !path.chars().all(fine) {
        return Err("use letters, digits, `-`, `_`, `.` and `/`".into());
    }
    Ok(path.to_owned())
}

fn frame_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fps) if fps > 0.0 && fps <= 1000.0 => Ok(fps),
        _ => Err("a number above 0, at most 1000".into()),
    }
}
