//! The thread's inside: connect, feed, notice the end, wait, connect again.
//!
//! Each connection gets a client of its own. So nothing of a dead connection lingers in the client's buffers: frames
//! wait in our queue, states in our table, and both are given to the next connection from there.

use std::cell::Cell;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, PublishOptions, QoS};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::trouble::{Backoff, Trouble, chance};
use super::{CHANNEL, MAX_PACKET, Shared};
use crate::config::MqttConfig;
use crate::sink::message::{FrameMessage, Run, StatusMessage, write_json};
use crate::telemetry::Count;

/// A connection that lasted this long was a good one: the next failure starts the back-off anew.
const STABLE: Duration = Duration::from_secs(10);
/// The broker is asked for an answer this often. The client's own ping does not do: it is put off by each message that we
/// send, so a frozen broker would go unnoticed as long as the socket's buffers take more frames.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A broker that has not answered for this long is taken for dead.
const SILENCE: Duration = Duration::from_secs(10);
/// Dropped messages are summed up in one line per this time.
const REPORT: Duration = Duration::from_secs(60);
/// Frames published before states, statistics and the stop get their turn.
const BATCH: usize = 32;
/// What topic and headers add to a payload at most, besides the topic itself.
const HEADERS: usize = 16;

const RETAINED: PublishOptions = PublishOptions::new(QoS::AtLeastOnce).retained();
const FLEETING: PublishOptions = PublishOptions::new(QoS::AtMostOnce);

/// The broker is gone, the client with it: nothing more can be sent on this connection.
struct Gone;

pub(super) struct Link {
    options: MqttOptions,
    /// `host:port`, for messages.
    broker: String,
    username: Option<String>,
    /// `<prefix>/<node>`.
    base: String,
    shared: Arc<Shared>,
    stop: watch::Receiver<Option<Instant>>,
    /// QoS 0 messages given to this connection's client, and those of them that the client wrote.
    given: Cell<u64>,
    written: Cell<u64>,
}

impl Link {
    pub(super) fn new(
        options: MqttOptions,
        config: &MqttConfig,
        base: String,
        shared: Arc<Shared>,
        stop: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self {
            options,
            broker: format!("{}:{}", config.url.host, config.url.port),
            username: config.username.clone(),
            base,
            shared,
            stop,
            given: Cell::new(0),
            written: Cell::new(0),
        }
    }

    /// Until the stop.
    pub(super) async fn run(self, stats_interval: Duration) {
        tokio::select! {
            () = self.stay_connected(stats_interval) => {}
            () = self.report_drops() => {}
        }
        self.shared.registry.mqtt_connected(false);
        self.shared.registry.count(Count::MqttDropped, self.shared.queue.len() as u64);
        self.shared.waiting.close();
    }

    async fn stay_connected(&self, stats_interval: Duration) {
        let mut backoff = Backoff::default();
        let mut last_trouble = None;
        let mut stats = tokio::time::interval_at(Instant::now() + stats_interval, stats_interval);
        stats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let begun = Instant::now();
            let trouble = match self.connection(&mut stats, &mut last_trouble).await {
                Ok(()) => return,
                Err(trouble) => trouble,
            };
            self.shared.registry.mqtt_failed(trouble.to_string());
            // Once per change: a broker that is away for a night is one line, not a thousand.
            if last_trouble.as_ref() == Some(&trouble) {
                tracing::debug!("MQTT broker {} {trouble}", self.broker);
            } else {
                tracing::warn!("MQTT broker {} {trouble} (trying again; video and inference go on)", self.broker);
            }
            last_trouble = Some(trouble);
            if begun.elapsed() >= STABLE {
                backoff.reset();
            }
            tokio::select! {
                () = self.stop_wanted() => return,
                () = tokio::time::sleep(backoff.next(chance())) => {}
            }
        }
    }

    /// One connection from its first to its last byte. `Ok`: the stop has been asked for and is done.
    async fn connection(&self, stats: &mut Interval, last_trouble: &mut Option<Trouble>) -> Result<(), Trouble> {
        let (client, mut events) = AsyncClient::builder(self.options.clone())
            .capacity(CHANNEL)
            .try_build()
            .map_err(|error| Trouble::Lost(error.to_string()))?;
        let timeout_s = events.network_options().connection_timeout();
        tokio::select! {
            biased;
            () = self.stop_wanted() => return Ok(()),
            connected = connected(&mut events) => {
                connected.map_err(|error| Trouble::connecting(&error, self.username.as_deref(), timeout_s))?;
            }
        }
        tracing::info!("MQTT connected to {} as {}", self.broker, self.options.client_id());
        self.shared.registry.mqtt_connected(true);
        *last_trouble = None;
        self.given.set(0);
        self.written.set(0);
        let begun = Instant::now();
        let end = tokio::select! {
            biased;
            () = self.stop_overdue() => Ok(()),
            end = self.drive(&mut events) => end.map_err(|error| Trouble::serving(&error, begun.elapsed())),
            trouble = heartbeat(&client, format!("{}/heartbeat", self.base)) => Err(trouble),
            Gone = self.feed(&client, stats) => Err(Trouble::Lost("the client has ended".into())),
        };
        self.shared.registry.mqtt_connected(false);
        self.shared.registry.count(Count::MqttDropped, self.given.get().saturating_sub(self.written.get()));
        end
    }

    /// Moves bytes until the connection ends. `Ok`: we ended it.
    async fn drive(&self, events: &mut EventLoop) -> Result<(), ConnectionError> {
        loop {
            match events.poll().await {
                Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => return Ok(()),
                // Packet id 0 is QoS 0.
                Ok(Event::Outgoing(Outgoing::Publish(0))) => self.written.set(self.written.get() + 1),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives everything that waits to `client`, until the stop; then says goodbye and waits to be dropped.
    async fn feed(&self, client: &AsyncClient, stats: &mut Interval) -> Gone {
        match self.feed_until_stop(client, stats).await {
            Ok(()) => std::future::pending().await,
            Err(gone) => gone,
        }
    }

    async fn feed_until_stop(&self, client: &AsyncClient, stats: &mut Interval) -> Result<(), Gone> {
        for slot in self.shared.statuses().values_mut() {
            slot.unsent = true;
        }
        self.publish(client, "available", b"online".into(), RETAINED).await?;
        loop {
            self.publish_statuses(client).await?;
            let more = self.publish_frames(client, BATCH).await?;
            if more {
                // Come straight back, but let the other arms have their turn.
                self.shared.wake.notify_one();
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                _ = stats.tick() => self.publish_stats(client).await?,
                () = self.stop_wanted() => break,
            }
        }
        self.publish_frames(client, usize::MAX).await?;
        self.publish_statuses(client).await?;
        self.publish_stats(client).await?;
        let stopped = client.publish_tracked(self.topic("available"), "stopped", RETAINED).await.map_err(|_| Gone)?;
        // The broker answers in order: when it has this one, it has all before it. Should the connection end first, the
        // other side of the select hears of it.
        if stopped.wait_async().await.is_ok() {
            client.disconnect().await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn publish_statuses(&self, client: &AsyncClient) -> Result<(), Gone> {
        let unsent: Vec<_> = {
            let mut statuses = self.shared.statuses();
            let unsent = statuses.iter_mut().filter_map(|(camera, slot)| {
                std::mem::take(&mut slot.unsent).then(|| (camera.clone(), slot.status.clone()))
            });
            unsent.collect()
        };
        for (camera, status) in unsent {
            let mut payload = Vec::new();
            // An empty payload makes the broker forget what it retains.
            if let Some(status) = &status {
                StatusMessage::new(status).write(&mut payload);
            }
            self.publish(client, &format!("{camera}/status"), payload, RETAINED).await?;
        }
        Ok(())
    }

    /// At most `limit` frames; true when more may wait.
    async fn publish_frames(&self, client: &AsyncClient, limit: usize) -> Result<bool, Gone> {
        for _ in 0..limit {
            let Ok(result) = self.shared.waiting.try_recv() else { return Ok(false) };
            let mut payload = Vec::with_capacity(512 + 128 * result.detections.len());
            FrameMessage::new(&result, Run::of_process()).write(&mut payload);
            self.publish(client, &format!("{}/frame", result.meta.camera), payload, FLEETING).await?;
        }
        Ok(true)
    }

    async fn publish_stats(&self, client: &AsyncClient) -> Result<(), Gone> {
        let mut payload = Vec::new();
        write_json(&self.shared.registry.snapshot(), &mut payload);
        self.publish(client, "stats", payload, FLEETING).await
    }

    async fn publish(
        &self,
        client: &AsyncClient,
        topic: &str,
        payload: Vec<u8>,
        options: PublishOptions,
    ) -> Result<(), Gone> {
        let topic = self.topic(topic);
        if topic.len() + payload.len() + HEADERS > MAX_PACKET {
            self.shared.registry.count(Count::MqttOversize, 1);
            tracing::debug!(
                "a message of {} bytes for {topic} is larger than {MAX_PACKET} and is dropped",
                payload.len()
            );
            return Ok(());
        }
        self.given.set(self.given.get() + u64::from(options == FLEETING));
        // Waits while the client's small channel is full: this is the sink's own thread, nobody waits for it.
        client.publish(topic, payload, options).await.map_err(|_| Gone)
    }

    fn topic(&self, below: &str) -> String {
        format!("{}/{below}", self.base)
    }

    /// One line per minute at most, however many messages are lost.
    async fn report_drops(&self) {
        let counted = |name| self.shared.registry.counter(name);
        let (mut dropped, mut oversize) = (0, 0);
        loop {
            tokio::time::sleep(REPORT).await;
            let now = (counted(Count::MqttDropped), counted(Count::MqttOversize));
            if now.0 > dropped {
                tracing::warn!("MQTT: {} messages dropped, the broker was away or too slow", now.0 - dropped);
            }
            if now.1 > oversize {
                tracing::warn!("MQTT: {} messages dropped, larger than {MAX_PACKET} bytes", now.1 - oversize);
            }
            (dropped, oversize) = now;
        }
    }

    /// Ends when a stop is asked for.
    async fn stop_wanted(&self) {
        // An error means that the sink is gone without a stop: stop as well.
        let _ = self.stop.clone().wait_for(Option::is_some).await;
    }

    /// Ends when a stop has been asked for and its time is over.
    async fn stop_overdue(&self) {
        let deadline = self.stop.clone().wait_for(Option::is_some).await.map_or(None, |deadline| *deadline);
        // The timer's grain is a millisecond, in which a whole goodbye may be said: a deadline that is over must not sleep.
        if let Some(deadline) = deadline
            && deadline > Instant::now()
        {
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Waits for the broker's answer to our connection.
pub(super) async fn connected(events: &mut EventLoop) -> Result<(), ConnectionError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = events.poll().await? {
            return Ok(());
        }
    }
}

/// Asks the broker for an answer again and again; ends when none comes.
///
/// The question is to end a subscription that never was: every broker must answer it, and it changes nothing.
async fn heartbeat(client: &AsyncClient, topic: String) -> Trouble {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let answer = async {
            match client.unsubscribe_tracked(topic.as_str()).await {
                Ok(notice) => notice.wait_async().await.is_ok(),
                Err(_) => false,
            }
        };
        match tokio::time::timeout(SILENCE, answer).await {
            Ok(true) => {}
            // The connection has just ended: `drive` knows why.
            Ok(false) => std::future::pending().await,
            Err(_) => return Trouble::Silent(SILENCE.as_secs()),
        }
    }
}
