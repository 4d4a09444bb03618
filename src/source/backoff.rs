//! How long to wait before the next attempt. Pure: time and randomness are arguments.

use std::time::Duration;

use crate::config::ReconnectConfig;

/// A run that was online for this long has shown that the camera is well: the next failure starts at the first step.
const HEALTHY: Duration = Duration::from_secs(60);

/// Doubles from `first` to `max`, each wait spread by ± `jitter`, so that many cameras do not come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    jitter: f64,
    failures: u32,
}

impl Backoff {
    /// Starts at the first step.
    pub fn new(config: &ReconnectConfig) -> Self {
        Self {
            first: config.first,
            max: config.max.max(config.first),
            jitter: if config.jitter.is_finite() { config.jitter.clamp(0.0, 1.0) } else { 0.0 },
            failures: 0,
        }
    }

    /// A run has ended that had delivered frames for `online`.
    pub fn ran(&mut self, online: Duration) {
        if online >= HEALTHY {
            self.failures = 0;
        }
    }

    /// The wait after one failure more. `random` is uniform in 0 ..= 1. Never longer than `max` plus its jitter.
    pub fn next_wait(&mut self, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(2u32.saturating_pow(self.failures.min(31)));
        self.failures = self.failures.saturating_add(1);
        let wait = doubled.min(self.max);
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
        (0..count).map(|_| backoff.next_wait(random).as_secs_f64()).collect()
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
    fn only_a_healthy_run_starts_again_from_the_first_step() {
        let mut flapping = backoff(1, 60, 0.0);
        flapping.next_wait(0.5);
        flapping.ran(Duration::from_secs(59));
        assert_eq!(flapping.next_wait(0.5), Duration::from_secs(2));
        flapping.ran(Duration::from_secs(60));
        assert_eq!(flapping.next_wait(0.5), Duration::from_secs(1));
    }

    #[test]
    fn strange_settings_and_many_failures_do_no_harm() {
        let mut odd = backoff(5, 1, f64::NAN);
        assert_eq!(odd.next_wait(f64::NAN).as_secs(), 5, "`max` below `first` counts as `first`");
        let mut endless = Backoff::new(&ReconnectConfig { max: Duration::MAX, ..ReconnectConfig::default() });
        for _ in 0..1000 {
            endless.next_wait(1.0);
            assert!(odd.next_wait(2.0) <= Duration::from_secs(5));
        }
    }
}
