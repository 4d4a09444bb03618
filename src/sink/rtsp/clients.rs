//! The open connections, and which of them are closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::glib;
use gstreamer_rtsp_server::prelude::*;

/// Connections at once; any more are closed.
pub(super) const MAX_CLIENTS: usize = 200;
/// A connection without a request and without a stream is closed after this time.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// Seconds without a keep-alive after which a session over UDP ends.
const SESSION_TIMEOUT_S: u32 = 30;

struct Client {
    connection: glib::WeakRef<gst_rtsp_server::RTSPClient>,
    last_request: Instant,
    sessions: Vec<glib::WeakRef<gst_rtsp_server::RTSPSession>>,
}

#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<(u64, HashMap<u64, Client>)>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Client>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.lock().1.len()
    }

    /// Registers a new connection; `false`: there are too many, the caller closes it.
    pub(super) fn admit(&self, client: &gst_rtsp_server::RTSPClient, pool: &gst_rtsp_server::RTSPSessionPool) -> bool {
        let id = {
            let mut inner = self.lock();
            if inner.1.len() >= MAX_CLIENTS {
                return false;
            }
            inner.0 += 1;
            let id = inner.0;
            let entry = Client { connection: client.downgrade(), last_request: Instant::now(), sessions: Vec::new() };
            inner.1.insert(id, entry);
            id
        };
        self.watch(client, pool, id);
        true
    }

    fn watch(&self, client: &gst_rtsp_server::RTSPClient, pool: &gst_rtsp_server::RTSPSessionPool, id: u64) {
        let seen = |clients: &Self| {
            let clients = clients.clone();
            move |_: &gst_rtsp_server::RTSPClient, _: &gst_rtsp_server::RTSPContext| clients.touch(id)
        };
        client.connect_options_request(seen(self));
        client.connect_describe_request(seen(self));
        client.connect_setup_request(seen(self));
        let clients = self.clone();
        client.connect_new_session(move |_, session| {
            session.set_timeout(SESSION_TIMEOUT_S);
            if let Some(client) = clients.lock().1.get_mut(&id) {
                client.sessions.push(session.downgrade());
            }
        });
        let (clients, pool) = (self.clone(), pool.downgrade());
        client.connect_closed(move |_| {
            let gone = clients.lock().1.remove(&id);
            // Without TEARDOWN the library would keep the session until it times out.
            let sessions = gone.into_iter().flat_map(|c| c.sessions).filter_map(|s| s.upgrade());
            if let Some(pool) = pool.upgrade() {
                for session in sessions {
                    // An error after TEARDOWN: the session has been removed already.
                    let _ = pool.remove(&session);
                }
            }
        });
    }

    fn touch(&self, id: u64) {
        if let Some(client) = self.lock().1.get_mut(&id) {
            client.last_request = Instant::now();
        }
    }

    /// Closes connections without a stream and without a recent request.
    pub(super) fn close_idle(&self, now: Instant) {
        let idle: Vec<_> = {
            let mut inner = self.lock();
            inner.1.retain(|_, client| client.connection.upgrade().is_some());
            let stale = |c: &&Client| {
                c.sessions.iter().all(|s| s.upgrade().is_none())
                    && now.saturating_duration_since(c.last_request) > HANDSHAKE
            };
            inner.1.values().filter(stale).filter_map(|c| c.connection.upgrade()).collect()
        };
        // Outside the lock: closing runs our own `closed` handler.
        for client in idle {
            client.close();
        }
    }
}
