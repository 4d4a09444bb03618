//! Health, statistics and metrics over HTTP. Read only: nothing here changes anything.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 when it detects (model loaded, a camera online or none configured), else 503 with the reason |
//! | `/api/v1/health` | [`Health`](crate::telemetry::Health) |
//! | `/api/v1/stats` | [`StatsSnapshot`](crate::telemetry::StatsSnapshot), as on MQTT |
//! | `/metrics` | Prometheus |

use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::oneshot;

use crate::config::HttpConfig;
use crate::telemetry::{self, Registry};

/// How long a stop waits for responses that are being sent.
const DRAIN: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(
        "{0} is in use by another program (`ss -ltnp` shows which): choose another port in `http.listen`, or 0 for a free one"
    )]
    Busy(SocketAddr),
    #[error("this user may not listen on {0}: choose a port from 1024 up in `http.listen`")]
    Forbidden(SocketAddr),
    #[error("cannot listen on {addr}: {source}; check `http.listen`")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("cannot start the thread sink-http: {0}")]
    Thread(std::io::Error),
}

pub struct HttpServer {
    addr: SocketAddr,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl HttpServer {
    /// Listens and starts the thread `sink-http`.
    ///
    /// # Errors
    ///
    /// An address that cannot be listened on, no thread.
    pub fn start(config: &HttpConfig, registry: Registry) -> Result<Self, HttpError> {
        let (listener, addr) = listen(config.listen)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::Thread)?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(HttpError::Thread)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("sink-http".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(listener, router(registry), stopped)) {
                    tracing::error!("the HTTP server on {addr} ended: {error}");
                }
                runtime.shutdown_background();
            })
            .map_err(HttpError::Thread)?;
        Ok(Self { addr, stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens; with port 0 in the configuration, the port that was assigned.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts no new connection, waits half a second for running responses and joins the thread. A second call does nothing.
    pub fn stop(&self) {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread sink-http panicked; please report this");
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), HttpError> {
    let open = || -> std::io::Result<_> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    open().map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => HttpError::Busy(addr),
        std::io::ErrorKind::PermissionDenied => HttpError::Forbidden(addr),
        _ => HttpError::Listen { addr, source },
    })
}

async fn serve(
    listener: tokio::net::TcpListener,
    router: Router,
    stopped: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let (draining, drained) = oneshot::channel::<()>();
    let graceful = async move {
        // Always an error: no message is sent, the sender is dropped.
        let _ = stopped.await;
        drop(draining);
    };
    let overdue = async move {
        let _ = drained.await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        outcome = axum::serve(listener, router).with_graceful_shutdown(graceful) => outcome,
        () = overdue => Ok(()),
    }
}

fn router(registry: Registry) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/health", get(|State(registry): State<Registry>| async move { Json(registry.health()) }))
        .route("/api/v1/stats", get(|State(registry): State<Registry>| async move { Json(registry.snapshot()) }))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(registry)
}

async fn ready(State(registry): State<Registry>) -> Response {
    let health = registry.health();
    if health.ready {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", health.reasons.join("; "))).into_response()
}

async fn metrics(State(registry): State<Registry>) -> Response {
    ([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], registry.prometheus()).into_response()
}

async fn not_found(uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path()))
}

async fn wrong_method(uri: Uri) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, format!("{} can only be read: use GET", uri.path()))
}

fn error(status: StatusCode, message: String) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::types::{BackendInfo, BackendKind, CameraState, CameraStatus, ModelId};

    fn server() -> (HttpServer, Registry) {
        let registry = Registry::new("node1");
        let config = HttpConfig { listen: "127.0.0.1:0".parse().unwrap(), ..HttpConfig::default() };
        (HttpServer::start(&config, registry.clone()).unwrap(), registry)
    }

    /// Status line, headers and body, by hand: no client to trust.
    fn request(server: &HttpServer, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    fn load_model(registry: &Registry, fallbacks: Vec<String>) {
        let model = ModelId { name: "m".into(), sha256: "ab".repeat(32), labels: vec![] };
        let backend = BackendInfo {
            kind: BackendKind::Tract,
            version: "tract 0.23".into(),
            fallbacks,
            nodes: Default::default(),
        };
        registry.model_ready(Arc::new(model), backend);
    }

    fn camera(registry: &Registry, state: CameraState, reason: Option<&str>) {
        let reason = reason.map(str::to_owned);
        let (camera, since) = ("gate".into(), SystemTime::now());
        registry.camera_status(&CameraStatus { camera, state, since, reason, retries: 1 });
    }

    #[test]
    fn ready_when_the_model_is_loaded_and_a_camera_is_online() {
        let (server, registry) = server();
        assert_eq!(request(&server, "GET", "/healthz").0, 200);
        let (status, _, body) = request(&server, "GET", "/readyz");
        assert_eq!(status, 503);
        assert!(body.contains("model is not loaded"), "{body}");
        load_model(&registry, vec![]);
        assert_eq!(request(&server, "GET", "/readyz").0, 200, "no camera is configured");
        camera(&registry, CameraState::Offline, Some("no route to host"));
        let (status, _, body) = request(&server, "GET", "/readyz");
        assert_eq!(status, 503);
        assert!(body.contains("camera gate is offline: no route to host"), "{body}");
        camera(&registry, CameraState::Online, None);
        assert_eq!(request(&server, "GET", "/readyz").0, 200);
    }

    #[test]
    fn health_and_stats_are_json() {
        let (server, registry) = server();
        load_model(&registry, vec!["cpu: no ONNX Runtime library found".into()]);
        camera(&registry, CameraState::Online, None);
        let (status, head, body) = request(&server, "GET", "/api/v1/health");
        assert!(status == 200 && head.contains("content-type: application/json"));
        assert!(!head.contains("access-control-allow-origin"));
        let health: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&health["status"], &health["model"]["backend"]), (&"degraded".into(), &"tract".into()));
        assert_eq!(health["cameras"]["gate"]["state"], "online");
        let stats: serde_json::Value = serde_json::from_str(&request(&server, "GET", "/api/v1/stats").2).unwrap();
        assert_eq!((&stats["node"], &stats["cameras"]["gate"]["retries"]), (&"node1".into(), &1.into()));
    }

    #[test]
    fn metrics_name_the_backend() {
        let (server, registry) = server();
        load_model(&registry, vec![]);
        let (status, head, body) = request(&server, "GET", "/metrics");
        assert!(status == 200 && head.contains("text/plain; version=0.0.4"));
        assert!(body.contains(r#"backend="tract""#), "{body}");
    }

    #[test]
    fn unknown_paths_and_methods_are_refused_in_json() {
        let (server, _) = server();
        for (method, path, expected) in [("GET", "/nothing", 404), ("POST", "/api/v1/health", 405)] {
            let (status, _, body) = request(&server, method, path);
            assert_eq!(status, expected);
            assert!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["error"].is_string());
        }
    }

    #[test]
    fn a_busy_port_says_what_to_try() {
        let (server, _) = server();
        let error =
            HttpServer::start(&HttpConfig { listen: server.addr(), ..HttpConfig::default() }, Registry::new("n"))
                .err()
                .unwrap();
        assert!(matches!(error, HttpError::Busy(_)));
        assert!(error.to_string().contains(&server.addr().to_string()));
    }

    #[test]
    fn an_idle_connection_does_not_hold_up_the_stop() {
        let (server, _) = server();
        let mut idle = TcpStream::connect(server.addr()).unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
        server.stop();
        server.stop();
        assert!(TcpStream::connect(server.addr()).is_err());
    }
}
