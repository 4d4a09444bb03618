//! The loop of the thread `sink-mqtt`: connect, publish, notice the end, wait, connect again.
//!
//! Each connection has its own client, so no message is left in the buffers of a lost connection: frames wait in our queue,
//! states in our table.

use std::cell::Cell;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, PublishOptions, QoS};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::trouble::{Backoff, Trouble};
use super::{CHANNEL, MAX_PACKET, Shared};
use crate::config::MqttConfig;
use crate::sink::message::{FrameMessage, Run, StatusMessage, write_json};
use crate::telemetry::Count;

/// A connection that lasted this long resets the back-off.
const STABLE: Duration = Duration::from_secs(10);
/// How often the broker is asked for an answer. The client's own ping is postponed by each message that is sent, so it
/// would not notice a frozen broker until the socket's buffers are full.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A broker that has not answered for this long is considered gone.
const SILENCE: Duration = Duration::from_secs(10);
/// Dropped messages are logged at most this often.
const REPORT: Duration = Duration::from_secs(60);
/// Frames published in a row before states, statistics and the stop are served.
const BATCH: usize = 32;
/// Most bytes that headers add to topic and payload.
const HEADERS: usize = 16;

const RETAINED: PublishOptions = PublishOptions::new(QoS::AtLeastOnce).retained();
const FLEETING: PublishOptions = PublishOptions::new(QoS::AtMostOnce);

/// The connection has ended: nothing more can be sent on it.
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
    /// QoS 0 messages given to the client of this connection, and those of them that it has written.
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

    /// Runs until the stop.
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
            // Once per change: a broker that is down for a night is one line, not a thousand.
            if last_trouble.as_ref() == Some(&trouble) {
                tracing::debug!("MQTT broker {} {trouble}", self.broker);
            } else {
                tracing::warn!(
                    "MQTT broker {} {trouble} (retrying; video and inference are not affected)",
                    self.broker
                );
            }
            last_trouble = Some(trouble);
            if begun.elapsed() >= STABLE {
                backoff.reset();
            }
            tokio::select! {
                () = self.stop_wanted() => return,
                () = tokio::time::sleep(backoff.next(fastrand::f64())) => {}
            }
        }
    }

    /// One connection, from its first to its last byte. `Ok`: it was stopped.
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

    /// Sends and receives until the connection ends. `Ok`: we ended it.
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

    /// Publishes until the stop, then disconnects in order and waits to be dropped.
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
                // Continue at once, but let the other branches run first.
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
        // The broker acknowledges in order: when it has this message, it has all before it. If the connection ends first,
        // `drive` returns.
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
            // An empty payload removes the retained message.
            if let Some(status) = &status {
                StatusMessage::new(status).write(&mut payload);
            }
            self.publish(client, &format!("{camera}/status"), payload, RETAINED).await?;
        }
        Ok(())
    }

    /// Publishes at most `limit` frames; true when there may be more.
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
        // May wait for room in the client's channel: no other thread waits for this one.
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
                tracing::warn!("MQTT: {} messages dropped, the broker was not connected or too slow", now.0 - dropped);
            }
            if now.1 > oversize {
                tracing::warn!("MQTT: {} messages dropped, larger than {MAX_PACKET} bytes", now.1 - oversize);
            }
            (dropped, oversize) = now;
        }
    }

    /// Returns when a stop is requested.
    async fn stop_wanted(&self) {
        // An error: the sink was dropped without a stop.
        let _ = self.stop.clone().wait_for(Option::is_some).await;
    }

    /// Returns at the deadline of a requested stop.
    async fn stop_overdue(&self) {
        let deadline = self.stop.clone().wait_for(Option::is_some).await.map_or(None, |deadline| *deadline);
        // The timer rounds up to a millisecond: a deadline that is over must not sleep.
        if let Some(deadline) = deadline
            && deadline > Instant::now()
        {
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Waits for CONNACK.
pub(super) async fn connected(events: &mut EventLoop) -> Result<(), ConnectionError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = events.poll().await? {
            return Ok(());
        }
    }
}

/// Asks the broker for an answer periodically; returns when none comes.
///
/// It unsubscribes from a topic without a subscription: every broker must answer that, and it changes nothing.
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
            // The connection has just ended: `drive` returns the reason.
            Ok(false) => std::future::pending().await,
            Err(_) => return Trouble::Silent(SILENCE.as_secs()),
        }
    }
}
