//! Why there is no connection and what to try; and how long to wait before the next attempt.

use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, StateError};

/// Why there is no connection to the broker, for log and health.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("refused {who}: check `mqtt.username` and `mqtt.password`, and the broker's list of users")]
    Credentials { who: String },
    #[error("refused the connection: {0}")]
    Refused(&'static str),
    #[error(
        "cannot be reached over TLS: {0}; check `mqtt.ca_file`, that the broker's certificate names this very host, and that the port speaks TLS"
    )]
    Tls(String),
    #[error("cannot be reached: {0}; is it running, and is `mqtt.url` right?")]
    Unreachable(String),
    #[error("does not answer within {0} s: frozen, behind a firewall, or not an MQTT broker")]
    NoAnswer(u64),
    #[error(
        "closes the connection without an MQTT answer: is it an MQTT broker, and does the port expect TLS (`mqtts://`)?"
    )]
    NotMqtt,
    #[error("ended the connection: {0}")]
    Lost(String),
    #[error(
        "ended the connection soon after it began: {0}; does another client use the same id (`node` must differ from box to box)?"
    )]
    LostSoon(String),
    #[error("is silent: no answer within {0} s; connecting again")]
    Silent(u64),
}

/// A connection that ends sooner than this suggests that two clients use the same id.
const SOON: Duration = Duration::from_secs(5);

impl Trouble {
    /// Why a connection could not be made.
    pub(super) fn connecting(error: &ConnectionError, username: Option<&str>, timeout_s: u64) -> Self {
        match error {
            ConnectionError::ConnectionRefused(code) => Self::refused(*code, username),
            ConnectionError::Tls(error) => Self::Tls(error.to_string()),
            ConnectionError::Io(error) => Self::Unreachable(error.to_string()),
            ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => Self::NoAnswer(timeout_s),
            ConnectionError::MqttState(StateError::Io(_) | StateError::ConnectionAborted) => Self::NotMqtt,
            ConnectionError::MqttState(StateError::Deserialization(_)) | ConnectionError::NotConnAck(_) => {
                Self::NotMqtt
            }
            other => Self::Lost(other.to_string()),
        }
    }

    fn refused(code: ConnectReturnCode, username: Option<&str>) -> Self {
        match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => Self::Credentials {
                who: match username {
                    Some(name) => format!("the password of user `{name}`"),
                    None => "a client without user name and password".into(),
                },
            },
            ConnectReturnCode::BadClientId => Self::Refused("it does not accept our client id; change `node`"),
            ConnectReturnCode::ServiceUnavailable => Self::Refused("it reports that it is not available now"),
            ConnectReturnCode::RefusedProtocolVersion => Self::Refused("it does not speak MQTT 3.1.1"),
            ConnectReturnCode::Success => Self::Refused("it gives no reason"),
        }
    }

    /// Why a connection ended after `lived`.
    pub(super) fn serving(error: &ConnectionError, lived: Duration) -> Self {
        let text = match error {
            ConnectionError::MqttState(StateError::Io(error)) => error.to_string(),
            other => other.to_string(),
        };
        if lived < SOON { Self::LostSoon(text) } else { Self::Lost(text) }
    }
}

/// 1, 2, 5, 10, then always 30 s, each ± 20 %, so that a hundred boxes do not all connect in the same second.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: usize,
}

const STEPS_S: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 30.0];
const JITTER: f64 = 0.2;

impl Backoff {
    /// The next wait. `chance` is in 0 ..= 1.
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let step = STEPS_S[self.tries.min(STEPS_S.len() - 1)];
        self.tries += 1;
        Duration::from_secs_f64(step * (1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0)))
    }

    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_start_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..7).map(|_| backoff.next(0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 5, 10, 30, 30, 30]);
        assert_eq!(backoff.next(0.0), Duration::from_secs(24));
        assert_eq!(backoff.next(1.0), Duration::from_secs(36));
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_secs(1));
    }

    #[test]
    fn each_cause_has_its_own_words() {
        let io = |kind: std::io::ErrorKind| ConnectionError::Io(kind.into());
        let refused =
            |code| Trouble::connecting(&ConnectionError::ConnectionRefused(code), Some("ocelli"), 5).to_string();
        assert!(refused(ConnectReturnCode::NotAuthorized).contains("the password of user `ocelli`"));
        assert!(refused(ConnectReturnCode::BadClientId).contains("`node`"));
        let unreachable = Trouble::connecting(&io(std::io::ErrorKind::ConnectionRefused), None, 5).to_string();
        assert!(unreachable.contains("cannot be reached") && unreachable.contains("mqtt.url"));
        assert_eq!(Trouble::connecting(&ConnectionError::NetworkTimeout, None, 5), Trouble::NoAnswer(5));
        let lost =
            |lived| Trouble::serving(&io(std::io::ErrorKind::BrokenPipe), Duration::from_secs(lived)).to_string();
        assert!(lost(1).contains("same id") && !lost(100).contains("same id"));
    }
}
