//! The RTSP server: its socket, its thread, its mounts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{gio, glib};

use super::clients::{Clients, MAX_CLIENTS};
use super::media;
use super::shared::Shared;
use super::view::View;
use crate::config::RtspConfig;
use crate::sink::encoder::{self, Encoder, EncoderError};
use crate::types::CameraName;

/// How often expired sessions and idle connections are closed.
const SWEEP: Duration = Duration::from_secs(2);
/// Threads of the RTSP library: a stream that is slow to start must not block the others.
const POOL_THREADS: i32 = 4;
/// How long [`RtspServer::stop`] waits for the library.
const STOP: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum RtspError {
    #[error(
        "RTSP cannot listen on {addr}: {reason}; end the program that uses it, or set `rtsp.listen` to another port"
    )]
    Bind { addr: SocketAddr, reason: String },
    #[error("RTSP output needs an H.264 encoder: {0}")]
    Encoder(#[from] EncoderError),
    #[error("cannot start the thread {name}: {source}")]
    Thread { name: String, source: std::io::Error },
    #[error("the RTSP library failed: {0}")]
    Library(String),
}

/// A running server: `rtsp://<addr>/<camera>` for each camera, 404 for everything else.
pub struct RtspServer {
    addr: SocketAddr,
    encoder: Arc<Encoder>,
    config: RtspConfig,
    server: gst_rtsp_server::RTSPServer,
    mounts: gst_rtsp_server::RTSPMountPoints,
    pool: gst_rtsp_server::RTSPSessionPool,
    clients: Clients,
    views: BTreeMap<CameraName, Arc<View>>,
    shares: Shares,
    main_loop: glib::MainLoop,
    thread: Option<(JoinHandle<()>, mpsc::Receiver<()>)>,
}

impl RtspServer {
    /// Listens on `config.listen` and starts one idle view per camera.
    pub fn start(config: &RtspConfig, cameras: &[CameraName]) -> Result<Self, RtspError> {
        let encoder = Arc::new(encoder::choose()?);
        probe(config.listen)?;
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address(&config.listen.ip().to_string());
        server.set_service(&config.listen.port().to_string());
        let pool = gst_rtsp_server::RTSPSessionPool::new();
        pool.set_max_sessions(MAX_CLIENTS as u32);
        server.set_session_pool(Some(&pool));
        let threads = gst_rtsp_server::RTSPThreadPool::new();
        threads.set_max_threads(POOL_THREADS);
        server.set_thread_pool(Some(&threads));

        let mounts = server.mount_points().ok_or_else(|| RtspError::Library("no mount points".into()))?;
        let (clients, shares) = (Clients::default(), Shares::default());
        serve_clients(&server, &pool, &clients, &shares);
        let (main_loop, thread) = run(&server, &pool, &clients, config.listen)?;
        let addr = SocketAddr::new(config.listen.ip(), u16::try_from(server.bound_port()).unwrap_or_default());
        let mut started = Self {
            addr,
            encoder,
            config: config.clone(),
            server,
            mounts,
            pool,
            clients,
            views: BTreeMap::new(),
            shares,
            main_loop,
            thread: Some(thread),
        };
        for camera in cameras {
            started.add(camera)?;
        }
        Ok(started)
    }

    /// Adds a camera; `false` when it is served already.
    pub fn add(&mut self, camera: &CameraName) -> Result<bool, RtspError> {
        if self.views.contains_key(camera) {
            return Ok(false);
        }
        let view = View::start(camera, self.config.max_delay)
            .map_err(|source| RtspError::Thread { name: format!("view-{camera}"), source })?;
        self.shares.lock().insert(camera.to_string(), Arc::downgrade(&view.shared));
        let factory = media::factory(&view.shared, &self.encoder, self.config.bitrate_kbps);
        self.mounts.add_factory(&format!("/{camera}"), factory);
        self.views.insert(camera.clone(), Arc::new(view));
        Ok(true)
    }

    /// Removes all other cameras: their viewers are disconnected, and their streams become 404.
    pub fn retain(&mut self, cameras: &[CameraName]) {
        let gone: Vec<_> = self.views.keys().filter(|camera| !cameras.contains(camera)).cloned().collect();
        for camera in gone {
            let path = format!("/{camera}");
            self.mounts.remove_factory(&path);
            self.shares.lock().remove(&*camera);
            self.server.client_filter(Some(&mut |_, client| {
                let watches = client.session_filter(None).iter().any(|session| session.media(&path).0.is_some());
                if watches {
                    client.close();
                    return gst_rtsp_server::RTSPFilterResult::Remove;
                }
                gst_rtsp_server::RTSPFilterResult::Keep
            }));
            if let Some(view) = self.views.remove(&camera) {
                view.stop();
            }
        }
    }

    /// Where it listens; with port 0 in the configuration, the port that was assigned.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn encoder(&self) -> String {
        self.encoder.description()
    }

    pub fn view(&self, camera: &str) -> Option<Arc<View>> {
        self.views.get(camera).cloned()
    }

    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    /// Viewers that have set up a stream.
    pub fn sessions(&self) -> u32 {
        self.pool.n_sessions()
    }

    /// Disconnects all viewers and ends all threads; takes at most about two seconds.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some((thread, ended)) = self.thread.take() else { return };
        self.server.client_filter(Some(&mut |_, client| {
            client.close();
            gst_rtsp_server::RTSPFilterResult::Remove
        }));
        // From inside the loop: a quit before the loop runs would be lost.
        let main_loop = self.main_loop.clone();
        let quit = glib::idle_source_new(Some("rtsp-quit"), glib::Priority::DEFAULT, move || {
            main_loop.quit();
            glib::ControlFlow::Break
        });
        quit.attach(Some(&self.main_loop.context()));
        // The library may be waiting for the network; that must not delay the shutdown.
        match ended.recv_timeout(STOP) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::warn!("the RTSP server's thread does not stop; it is left behind");
            }
            _ => {
                let _ = thread.join();
            }
        }
        for view in self.views.values() {
            view.stop();
        }
    }
}

impl Drop for RtspServer {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Binds and releases the port: the RTSP library's own error has neither the address nor the reason.
fn probe(addr: SocketAddr) -> Result<(), RtspError> {
    std::net::TcpListener::bind(addr).map(drop).map_err(|error| RtspError::Bind { addr, reason: error.to_string() })
}

/// The cameras by name, for connections.
#[derive(Clone, Default)]
struct Shares(Arc<Mutex<BTreeMap<String, Weak<Shared>>>>);

impl Shares {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits and tracks the connections.
fn serve_clients(
    server: &gst_rtsp_server::RTSPServer,
    pool: &gst_rtsp_server::RTSPSessionPool,
    clients: &Clients,
    shares: &Shares,
) {
    let shares = shares.clone();
    let (clients, pool) = (clients.clone(), pool.downgrade());
    server.connect_client_connected(move |_, client| {
        if !pool.upgrade().is_some_and(|pool| clients.admit(client, &pool)) {
            tracing::warn!(limit = MAX_CLIENTS, "too many RTSP connections: refused another one");
            client.close();
            return;
        }
        let shares = shares.clone();
        client.connect_play_request(move |_, context| {
            let path = context.uri().map(|uri| uri.request_uri()).unwrap_or_default();
            let path = path.split_once("://").map_or(path.as_str(), |(_, rest)| rest);
            let camera = path.split('/').nth(1).unwrap_or_default();
            let shared = shares.lock().get(camera).and_then(Weak::upgrade);
            if let Some(shared) = shared {
                shared.request_key_frame();
            }
        });
    });
}

type LoopThread = (JoinHandle<()>, mpsc::Receiver<()>);

/// Starts the thread `rtsp`, which owns the socket and all connections.
fn run(
    server: &gst_rtsp_server::RTSPServer,
    pool: &gst_rtsp_server::RTSPSessionPool,
    clients: &Clients,
    addr: SocketAddr,
) -> Result<(glib::MainLoop, LoopThread), RtspError> {
    let context = glib::MainContext::new();
    let listener = server
        .create_source(gio::Cancellable::NONE)
        .map_err(|error| RtspError::Bind { addr, reason: error.to_string() })?;
    listener.attach(Some(&context));
    let (weak_pool, sweep_clients) = (pool.downgrade(), clients.clone());
    let sweep = glib::timeout_source_new(SWEEP, Some("rtsp-sweep"), glib::Priority::DEFAULT, move || {
        if let Some(pool) = weak_pool.upgrade() {
            pool.cleanup();
        }
        sweep_clients.close_idle(Instant::now());
        glib::ControlFlow::Continue
    });
    sweep.attach(Some(&context));
    let main_loop = glib::MainLoop::new(Some(&context), false);
    let (done, ended) = mpsc::channel();
    let looped = main_loop.clone();
    let thread = std::thread::Builder::new()
        .name("rtsp".into())
        .spawn(move || {
            let entered = context.with_thread_default(|| looped.run());
            listener.destroy();
            sweep.destroy();
            if entered.is_err() {
                tracing::error!("the RTSP server's thread could not take its main context");
            }
            let _ = done.send(());
        })
        .map_err(|source| RtspError::Thread { name: "rtsp".into(), source })?;
    Ok((main_loop, (thread, ended)))
}
