//! The engine's status, for whoever wants to see it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::types::EngineStatus;

/// Hears of each change of the engine's status, on the engine's own threads; returns at once and asks the engine nothing.
pub type Observer = Arc<dyn Fn(&EngineStatus) + Send + Sync>;

/// The status and who hears of it.
#[derive(Default)]
pub(in crate::infer) struct StatusCell {
    status: Mutex<EngineStatus>,
    /// Held while it is told, so that everybody hears changes in their order.
    observer: Mutex<Option<Observer>>,
}

impl StatusCell {
    pub(in crate::infer) fn get(&self) -> EngineStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it and tells the observer, but only when something has changed.
    pub(in crate::infer) fn set(&self, status: EngineStatus) {
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

    /// From now on `observer` hears of changes; of the present status at once. `None`: nobody does.
    pub(in crate::infer) fn observe(&self, observer: Option<Observer>) {
        let mut held = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observer) = &observer {
            observer(&self.get());
        }
        *held = observer;
    }
}
