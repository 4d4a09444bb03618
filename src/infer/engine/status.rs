//! The engine's published status.

use std::sync::{Arc, Mutex, PoisonError};

use crate::types::EngineStatus;

/// Called with each change of the engine's status, on the engine's thread; returns at once and does not call the engine.
pub type Observer = Arc<dyn Fn(&EngineStatus) + Send + Sync>;

#[derive(Default)]
pub(super) struct StatusCell {
    status: Mutex<EngineStatus>,
    /// Locked while it is called, so that it sees changes in their order.
    observer: Mutex<Option<Observer>>,
}

impl StatusCell {
    pub(super) fn get(&self) -> EngineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the status, and calls the observer when it has changed.
    pub(super) fn set(&self, status: EngineStatus) {
        let observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == status {
            return;
        }
        held.clone_from(&status);
        drop(held);
        if let Some(observer) = &*observer {
            observer(&status);
        }
    }

    /// From now on `observer` is called with changes, and with the present status at once.
    pub(super) fn observe(&self, observer: Option<Observer>) {
        let mut held = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observer) = &observer {
            observer(&self.get());
        }
        *held = observer;
    }
}
