//! One connection to the broker, to check whether it accepts us.

use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, Outgoing};

use super::trouble::Trouble;
use super::{MqttError, link, without_will};
use crate::config::MqttConfig;

/// Longest time for the whole check.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Longest wait for an orderly disconnect.
const GOODBYE: Duration = Duration::from_secs(1);

/// Connects with the configured credentials and disconnects, without a last will. The client id differs from the service's,
/// which the broker would disconnect otherwise. Publishes nothing.
///
/// # Errors
/// Why there is no connection, as the service reports it: a sentence whose subject is the broker, without a password.
pub fn probe(config: &MqttConfig, node: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| MqttError::Thread(error).to_string())?;
    let outcome = runtime.block_on(async {
        match tokio::time::timeout(TIMEOUT, connect(config, node)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::NoAnswer(TIMEOUT.as_secs()).to_string()),
        }
    });
    // Does not wait for a name look-up that hangs in the resolver.
    runtime.shutdown_background();
    outcome
}

async fn connect(config: &MqttConfig, node: &str) -> Result<(), String> {
    let options = without_will(config, format!("ocelli-{node}-doctor")).map_err(|error| error.to_string())?;
    let (client, mut events) = AsyncClient::builder(options).capacity(1).try_build().map_err(|e| e.to_string())?;
    let timeout_s = events.network_options().connection_timeout();
    link::connected(&mut events)
        .await
        .map_err(|error| Trouble::connecting(&error, config.username.as_deref(), timeout_s).to_string())?;
    if client.disconnect().await.is_ok() {
        let _ = tokio::time::timeout(GOODBYE, goodbye(&mut events)).await;
    }
    Ok(())
}

async fn goodbye(events: &mut EventLoop) {
    loop {
        match events.poll().await {
            Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
