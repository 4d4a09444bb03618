//! What the supervisor does about failures and hangs.

use std::time::Instant;

use super::Supervisor;
use super::loading::{Loading, Purpose};
use crate::infer::InferError;
use crate::infer::engine::crew::{Patience, Phase};
use crate::infer::engine::lanes::Notify;
use crate::infer::engine::policy::Verdict;
use crate::infer::engine::worker;
use crate::types::EngineState;

impl Supervisor {
    pub(super) fn see_hangs(&mut self) {
        let patience = Patience { infer: self.deadline, load: self.limits.load };
        let mut heard: Vec<Notify> = Vec::new();
        let mut hangs = 0;
        let kind = self.kind();
        let mut state = self.shared.lock();
        for overdue in state.crew.overdue(self.looked, patience) {
            let limit = if overdue.tickets.is_empty() { patience.load } else { patience.infer };
            let error = InferError::Hung { backend: kind, limit };
            for ticket in overdue.tickets {
                heard.extend(state.lose(ticket, error.clone()));
            }
            let loads = self.loading.as_ref().is_some_and(|loading| loading.thread == overdue.thread);
            if let (true, Some(loading)) = (loads, &self.loading) {
                let backend = self.policy.kind(loading.rung).unwrap_or(kind);
                let error = InferError::Hung { backend, limit };
                loading.fail(error);
            }
            hangs += usize::from(overdue.serves);
        }
        let hung = state.crew.hung();
        drop(state);
        for notify in heard {
            notify();
        }
        for _ in 0..hangs {
            let error = InferError::Hung { backend: kind, limit: self.deadline };
            tracing::error!("{error}");
            match self.policy.hung(hung) {
                Verdict::Down => return self.go_down(&error),
                Verdict::Fatal => return self.end(&error),
                Verdict::Wait => self.stand_still(&error),
                Verdict::GoOn => {
                    self.degraded(&error);
                    self.replace_worker();
                }
            }
        }
        // A thread that came back has made room for another one.
        if hangs == 0 && hung < self.limits.hung as usize && self.shared.lock().refuses() {
            self.shared.lock().admit();
            self.replace_worker();
        }
    }

    pub(super) fn see_failure(&mut self) {
        let (unseen, failures) = {
            let mut state = self.shared.lock();
            (state.crew.record.unseen.take(), state.crew.record.failures)
        };
        let Some(error) = unseen else { return };
        match self.policy.failed(failures, &error) {
            Verdict::Down => self.go_down(&error),
            Verdict::Fatal => self.end(&error),
            Verdict::GoOn | Verdict::Wait => self.degraded(&error),
        }
    }

    /// The present rung fails; the next one is loaded while frames wait.
    fn go_down(&mut self, error: &InferError) {
        if self.loading.as_ref().is_some_and(|loading| loading.purpose == Purpose::Down) {
            return;
        }
        let (rung, kind) = (self.policy.current(), self.kind());
        self.shared.lock().crew.halted = true;
        let wait = self.policy.lost(rung, self.looked);
        tracing::error!(
            "backend {}; the next one is loaded, and this one is tried again in {wait:?}",
            error.sentence(kind)
        );
        self.passed_over.insert(rung, format!("{} while it ran", error.sentence(kind)));
        self.state = EngineState::Loading;
        self.reason = Some(error.sentence(kind));
        // Before the next one can be there: everybody hears that frames wait.
        self.publish();
        // A climb that was under way waits for its next turn: frames wait now.
        if let Some(Loading { rung, .. }) = self.loading.take() {
            self.policy.lost(rung, self.looked);
        }
        self.load(rung + 1, Purpose::Down);
    }

    fn degraded(&mut self, error: &InferError) {
        if self.state != EngineState::Degraded {
            tracing::error!("inference fails: {error}");
        }
        self.state = EngineState::Degraded;
        self.reason = Some(error.sentence(self.kind()));
    }

    /// Nothing can run: frames come back with the error until a hanging thread does.
    fn stand_still(&mut self, error: &InferError) {
        self.degraded(error);
        self.refuse(error.clone());
    }

    fn refuse(&self, error: InferError) {
        let heard = self.shared.lock().refuse(error);
        for notify in heard {
            notify();
        }
    }

    /// Only a new process can infer again.
    pub(super) fn end(&mut self, error: &InferError) {
        let reason = error.sentence(self.kind());
        tracing::error!("inference has ended in this process: {reason}");
        self.fail(reason);
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.fatal = true;
        self.state = EngineState::Failed;
        self.reason = Some(reason.clone());
        self.shared.lock().crew.halted = true;
        self.refuse(InferError::Ended { reason });
    }

    pub(super) fn replace_worker(&mut self) {
        let Some(common) = &self.common else { return };
        let number = self.next_worker;
        self.next_worker += 1;
        if let Err(error) = worker::start(common, number, None, Phase::Loading { since: Instant::now() }) {
            tracing::error!("{error}");
        }
    }
}
