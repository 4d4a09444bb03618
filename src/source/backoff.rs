//! How long to wait before the next attempt. Pure: randomness is an argument.

use std::time::Duration;

use crate::config::ReconnectConfig;

/// A run that was online for this long has shown that the camera is healthy: the next failure waits `first` again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Doubles from `first` to `max`; each wait is spread by ± `jitter` (a fraction), so that many cameras do not reconnect in
/// step.
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    jitter: f64,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(config: &ReconnectConfig) -> Self {
        let jitter = if config.jitter.is_finite() { config.jitter.clamp(0.0, 1.0) } else { 0.0 };
        Self { first: config.first, max: config.max.max(config.first), jitter, failures: 0 }
    }

    /// The wait after a run that delivered frames for `online` and then failed. `random` is uniform in 0 ..= 1. Never
    /// longer than `max` plus its jitter.
    pub(super) fn next_wait(&mut self, online: Duration, random: f64) -> Duration {
        if online >= HEALTHY {
            self.failures = 0;
        }
        let wait = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let spread = 1.0 + self.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        // Not a number, or more than a `Duration` holds: the plain wait.
        Duration::try_from_secs_f64(wait.as_secs_f64() * spread).unwrap_or(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(first: u64, max: u64, jitter: f64) -> Backoff {
        Backoff::new(&ReconnectConfig {
            first: Duration::from_secs(first),
            max: Duration::from_secs(max),
            jitter,
            ..ReconnectConfig::default()
        })
    }

    fn seconds(backoff: &mut Backoff, random: f64, count: usize) -> Vec<f64> {
        (0..count).map(|_| backoff.next_wait(Duration::ZERO, random).as_secs_f64()).collect()
    }

    #[test]
    fn doubles_up_to_the_limit() {
        assert_eq!(seconds(&mut backoff(1, 10, 0.0), 0.5, 6), [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
    }

    #[test]
    fn jitter_spreads_to_both_sides() {
        assert_eq!(seconds(&mut backoff(10, 10, 0.2), 0.0, 1), [8.0]);
        assert_eq!(seconds(&mut backoff(10, 10, 0.2), 0.5, 1), [10.0]);
        assert_eq!(seconds(&mut backoff(10, 10, 0.2), 1.0, 1), [12.0]);
    }

    #[test]
    fn only_a_healthy_run_resets_the_wait() {
        let mut flapping = backoff(1, 60, 0.0);
        flapping.next_wait(Duration::ZERO, 0.5);
        assert_eq!(flapping.next_wait(Duration::from_secs(59), 0.5), Duration::from_secs(2));
        assert_eq!(flapping.next_wait(Duration::from_secs(60), 0.5), Duration::from_secs(1));
    }

    #[test]
    fn odd_settings_and_many_failures_stay_in_range() {
        let mut odd = backoff(5, 1, f64::NAN);
        assert_eq!(odd.next_wait(Duration::ZERO, f64::NAN).as_secs(), 5, "`max` below `first` counts as `first`");
        let mut endless = Backoff::new(&ReconnectConfig { max: Duration::MAX, ..ReconnectConfig::default() });
        for _ in 0..1000 {
            endless.next_wait(Duration::ZERO, 1.0);
            assert!(odd.next_wait(Duration::ZERO, 2.0) <= Duration::from_secs(5));
        }
    }
}
