//! MQTT: availability with last will, camera states, one message per frame, statistics.
//!
//! The thread `sink-mqtt` owns the client. Camera threads only put a reference into a bounded queue: a broker that is slow,
//! frozen or gone costs messages, never video or inference.
//!
//! | topic below `<prefix>/<node>` | QoS, retained | payload |
//! |---|---|---|
//! | `available` | 1, yes, last will | `online`, `stopped`, `offline` |
//! | `<camera>/status` | 1, yes | [`StatusMessage`](super::message::StatusMessage) |
//! | `<camera>/frame` | 0, no | [`FrameMessage`](super::message::FrameMessage) |
//! | `stats` | 0, no | [`StatsSnapshot`](crate::telemetry::StatsSnapshot) |
//!
//! Delivery: states are sent again at each connection. A frame is sent at most once.

mod link;
mod probe;
mod tls;
mod trouble;

pub use probe::probe;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{LastWill, MqttOptions, QoS, Transport};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Sink;
use crate::config::MqttConfig;
use crate::queue::{self, DropPolicy};
use crate::telemetry::{Count, Registry};
use crate::types::{CameraName, CameraStatus, FrameResult};

/// Largest packet that is sent, bytes; a frame of 300 objects has 30 kB. A larger one is dropped and counted: the client
/// would refuse it and end the connection.
pub const MAX_PACKET: usize = 1 << 20;
/// Largest packet that is accepted from the broker, bytes.
const MAX_INCOMING: usize = 64 << 10;
/// Requests between our queue and the socket: few, because those are lost with the connection.
const CHANNEL: usize = 16;
/// MQTT keep-alive: the broker publishes the last will after 1.5 times as much silence.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Why the sink cannot start. A broker that is absent or refuses us is no such error: connecting is retried for ever.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error("cannot read the CA certificates {path}: {source}; check `mqtt.ca_file`")]
    CaFile { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no usable certificate; `mqtt.ca_file` must name a PEM file with the CA's certificate")]
    NoCertificate { path: PathBuf },
    #[error(
        "this system has no CA certificates for `mqtts://`: install the package ca-certificates, or set `mqtt.ca_file`"
    )]
    NoSystemCertificates,
    #[error("cannot set up TLS for MQTT: {0}")]
    Tls(String),
    #[error("`{0}` is not a valid MQTT topic: `mqtt.prefix` and `node` must not hold `+`, `#` or control characters")]
    Topic(String),
    #[error("cannot set up the MQTT client: {0}")]
    Options(String),
    #[error("cannot start the thread sink-mqtt: {0}")]
    Thread(std::io::Error),
}

impl MqttError {
    /// Whether the configuration is at fault, so that a restart cannot help.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::CaFile { .. } | Self::NoCertificate { .. } | Self::NoSystemCertificates | Self::Topic(_))
    }
}

/// A camera's newest state.
struct Slot {
    /// `None`: the camera is no longer configured, and the broker's retained message must be removed.
    status: Option<CameraStatus>,
    /// Not yet sent on this connection.
    unsent: bool,
}

struct Shared {
    frames: bool,
    queue: queue::Sender<Arc<FrameResult>>,
    waiting: queue::Receiver<Arc<FrameResult>>,
    /// At most one entry per camera.
    statuses: Mutex<BTreeMap<CameraName, Slot>>,
    wake: Notify,
    registry: Registry,
}

impl Shared {
    fn statuses(&self) -> MutexGuard<'_, BTreeMap<CameraName, Slot>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct MqttSink {
    shared: Arc<Shared>,
    /// When the thread must have ended; `None` while it runs.
    stop: watch::Sender<Option<Instant>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl MqttSink {
    /// Starts the thread `sink-mqtt`, which connects and stays connected, and returns at once. A broker that cannot be
    /// reached is reported in the log and in health. Statistics are published every `stats_interval` (at least 100 ms).
    ///
    /// # Errors
    /// Those that a retry cannot fix: unreadable certificates, invalid topics, no thread.
    pub fn start(
        config: &MqttConfig,
        node: &str,
        stats_interval: Duration,
        registry: Registry,
    ) -> Result<Self, MqttError> {
        let (base, options) = prepare(config, node)?;
        let (queue, waiting) = queue::bounded("mqtt", config.queue, DropPolicy::DropOldest);
        registry.mqtt_connected(false);
        let shared = Arc::new(Shared {
            frames: config.frames,
            queue,
            waiting,
            statuses: Mutex::new(BTreeMap::new()),
            wake: Notify::new(),
            registry,
        });
        let (stop, stopped) = watch::channel(None);
        let link = link::Link::new(options, config, base, shared.clone(), stopped);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MqttError::Thread)?;
        let stats_interval = stats_interval.max(Duration::from_millis(100));
        let thread = std::thread::Builder::new()
            .name("sink-mqtt".into())
            .spawn(move || {
                runtime.block_on(link.run(stats_interval));
                // Does not wait for a name look-up that hangs in the resolver.
                runtime.shutdown_background();
            })
            .map_err(MqttError::Thread)?;
        Ok(Self { shared, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Whether [`Self::start`] would accept this configuration.
    pub fn check(config: &MqttConfig, node: &str) -> Result<(), MqttError> {
        prepare(config, node).map(drop)
    }

    /// The camera is no longer configured: its retained state is removed from the broker.
    pub fn forget(&self, camera: &CameraName) {
        self.shared.statuses().insert(camera.clone(), Slot { status: None, unsent: true });
        self.shared.wake.notify_one();
    }

    /// Publishes the queue, then `stopped`, disconnects and joins the thread, all within `deadline`. When the broker does
    /// not answer in time, the connection is cut, and the broker publishes `offline`. A second call does nothing.
    pub fn stop(&self, deadline: Duration) {
        self.shared.queue.close();
        self.stop.send_if_modified(|stop| stop.is_none() && stop.replace(Instant::now() + deadline).is_none());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread sink-mqtt panicked; please report this");
        }
    }
}

impl Sink for MqttSink {
    fn result(&self, result: &Arc<FrameResult>) {
        if !self.shared.frames {
            return;
        }
        if self.shared.queue.send(result.clone()).is_some() {
            self.shared.registry.count(Count::MqttDropped, 1);
        }
        self.shared.wake.notify_one();
    }

    fn status(&self, status: &CameraStatus) {
        self.shared.statuses().insert(status.camera.clone(), Slot { status: Some(status.clone()), unsent: true });
        self.shared.wake.notify_one();
    }
}

impl Drop for MqttSink {
    /// Without [`MqttSink::stop`] before, the connection is cut, and the broker publishes `offline`.
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// The first part of all topics, and the client's options.
fn prepare(config: &MqttConfig, node: &str) -> Result<(String, MqttOptions), MqttError> {
    let base = format!("{}/{node}", config.prefix);
    if config.prefix.is_empty() || node.is_empty() || base.contains(['+', '#']) || base.contains(char::is_control) {
        return Err(MqttError::Topic(base));
    }
    let options = options(config, node, &base)?;
    Ok((base, options))
}

fn options(config: &MqttConfig, node: &str, base: &str) -> Result<MqttOptions, MqttError> {
    let mut options = without_will(config, format!("ocelli-{node}"))?;
    options.set_last_will(LastWill::new(format!("{base}/available"), "offline", QoS::AtLeastOnce, true));
    options.validate().map_err(|error| MqttError::Options(error.to_string()))?;
    Ok(options)
}

/// The options of a connection without a last will.
fn without_will(config: &MqttConfig, client_id: String) -> Result<MqttOptions, MqttError> {
    // The client joins host and port with a colon, so an IPv6 address needs its brackets.
    let host = if config.url.host.contains(':') && !config.url.host.starts_with('[') {
        format!("[{}]", config.url.host)
    } else {
        config.url.host.clone()
    };
    let mut options = MqttOptions::new(client_id, (host, config.url.port));
    options.set_keep_alive(KEEP_ALIVE.as_secs() as u16);
    options.set_clean_session(true);
    options.set_max_packet_size(MAX_INCOMING, MAX_PACKET);
    options.set_max_request_batch(CHANNEL);
    match (&config.username, &config.password) {
        (Some(username), None) => {
            options.set_username(username.clone());
        }
        // MQTT 3.1.1 has no password without a user name.
        (username, Some(password)) => {
            options.set_credentials(username.clone().unwrap_or_default(), password.clone());
        }
        (None, None) => {}
    }
    if config.url.tls {
        options.set_transport(Transport::tls_with_config(tls::client(config.ca_file.as_deref())?));
    }
    options.validate().map_err(|error| MqttError::Options(error.to_string()))?;
    Ok(options)
}
