//! The engine's status, for whoever wants to see it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::types::EngineStatus;

/// Hears of each change of the engine's status, on the engine's own threads; returns at once.
pub type Observer = Arc<dyn Fn(&EngineStatus) + Send + Sync>;

/// The status and who hears of it.
#[derive(Default)]
pub(super) struct StatusCell {
    status: Mutex<EngineStatus>,
    observer: Option<Observer>,
}

impl StatusCell {
    pub(super) fn new(observer: Option<Observer>) -> Self {
        Self { status: Mutex::default(), observer }
    }

    pub(super) fn get(&self) -> EngineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it and tells the observer, but only when something has changed.
    pub(super) fn set(&self, status: EngineStatus) {
        let mut held = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == status {
            return;
        }
        held.clone_from(&status);
        drop(held);
        if let Some(observer) = &self.observer {
            observer(&status);
        }
    }
}
