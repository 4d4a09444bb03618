//! The supervisor: sees inferences that fail or hang, and brings the engine to another backend and back.

mod loading;
mod recovery;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::loading::{Loading, Purpose};
use crate::infer::InferError;
use crate::infer::cache::build::Building;
use crate::infer::engine::ladder::{Loaded, Rungs};
use crate::infer::engine::lanes::Shared;
use crate::infer::engine::policy::{Limits, Policy};
use crate::infer::engine::starts::Starts;
use crate::infer::engine::status::StatusCell;
use crate::infer::engine::worker::Common;
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind, Division, EngineState, EngineStatus};

pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: Arc<ModelSpec>,
    pub(super) status: Arc<StatusCell>,
    rungs: Arc<dyn Rungs>,
    limits: Limits,
    policy: Policy,
    starts: Starts,
    /// Why a rung was passed over, by its place on the ladder.
    passed_over: BTreeMap<usize, String>,
    loading: Option<Loading>,
    building: Option<Building>,
    build_news: Instant,
    /// The generation that serves.
    common: Option<Common>,
    info: Option<BackendInfo>,
    divisions: Vec<Division>,
    deadline: Duration,
    activated: Instant,
    told_served: bool,
    seen_served: u64,
    next_worker: u64,
    /// What the status says besides.
    state: EngineState,
    reason: Option<String>,
    fatal: bool,
    /// Why nothing could be started at all.
    pub(super) error: Option<InferError>,
    looked: Instant,
}

impl Supervisor {
    pub(super) fn new(
        spec: Arc<ModelSpec>,
        rungs: Arc<dyn Rungs>,
        limits: Limits,
        starts: Starts,
        status: Arc<StatusCell>,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared: Shared::new(),
            spec,
            status,
            policy: Policy::new(rungs.kinds(), limits.clone()),
            rungs,
            starts,
            passed_over: BTreeMap::new(),
            loading: None,
            building: None,
            build_news: now,
            common: None,
            info: None,
            divisions: Vec::new(),
            deadline: limits.load,
            activated: now,
            told_served: false,
            seen_served: 0,
            next_worker: 0,
            state: EngineState::Loading,
            reason: None,
            fatal: false,
            error: None,
            looked: now,
            limits,
        }
    }

    /// Begins with the best rung that earlier starts of this program did not die on.
    pub(super) fn begin(&mut self) {
        let kinds = self.rungs.kinds().to_vec();
        let first = self.starts.first(&kinds);
        for (rung, kind) in kinds.iter().enumerate().take(first) {
            let why = format!("{kind}: left out, because the last two starts on it died before it served (safe start)");
            tracing::warn!("backend {why}");
            self.passed_over.insert(rung, why);
            self.policy.lost(rung, Instant::now());
        }
        self.load(first, Purpose::Down);
        self.publish();
    }

    /// True once frames can be handed in, or it is clear that they never can.
    ///
    /// `built`: what must be built is waited for.
    pub(super) fn has_begun(&self, built: bool) -> bool {
        self.state != EngineState::Loading && !(built && self.state == EngineState::Building)
    }

    /// A session that somebody else has loaded.
    pub(super) fn adopt(&mut self, loaded: Loaded) -> Result<(), InferError> {
        self.activate(0, loaded)?;
        self.publish();
        Ok(())
    }

    /// The thread's loop.
    pub(super) fn run(mut self) {
        while self.wait() {
            self.look();
        }
        self.starts.stopped();
        self.rungs.stop();
    }

    /// Waits until something is to be done. False: the engine closes.
    pub(super) fn wait(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let looked = Instant::now();
        let next = self.policy.next_climb().map_or(self.limits.look, |due| {
            due.saturating_duration_since(looked).clamp(Duration::from_millis(1), self.limits.look)
        });
        // Whoever has news leaves it in its slot before it takes the lock to say so: nothing is overslept.
        let news = self.loading.as_ref().is_some_and(Loading::is_done)
            || (self.loading.is_none() && self.building.as_ref().is_some_and(Building::is_done));
        if !state.closed && !news && state.crew.record.unseen.is_none() {
            state = Shared::wait_for(&shared.watch, state, next);
            // Nobody is late when the whole process stood still, as it does after a stop signal or in a frozen container.
            if looked.elapsed() > next * 4 + Duration::from_secs(1) {
                state.crew.forgive(Instant::now());
            }
        }
        !state.closed
    }

    /// Sees what has happened and does what follows.
    pub(super) fn look(&mut self) {
        self.looked = Instant::now();
        let left = self.shared.lock().crew.take_left();
        for thread in left {
            // It catches what a runtime throws; nothing else in it can panic.
            let _ = thread.join();
        }
        if !self.fatal {
            self.see_hangs();
            self.see_failure();
            self.see_loaded();
            self.see_build();
            self.see_service();
            self.climb_if_due();
        }
        self.publish();
    }

    /// Sees that frames are inferred.
    fn see_service(&mut self) {
        let (served, failures) = {
            let state = self.shared.lock();
            (state.crew.record.served, state.crew.record.failures)
        };
        let more = served > std::mem::replace(&mut self.seen_served, served);
        if more && failures == 0 {
            self.policy.works();
            if self.state == EngineState::Degraded && !self.shared.lock().refuses() {
                tracing::warn!("inference works again");
                (self.state, self.reason) = (EngineState::Serving, None);
            }
        }
        if self.state != EngineState::Serving {
            return;
        }
        let age = self.looked.saturating_duration_since(self.activated);
        if !self.told_served && (served >= self.limits.served.0 || age >= self.limits.served.1) {
            self.told_served = true;
            self.starts.served(self.kind());
        }
        if age >= self.limits.settled {
            self.policy.settled();
        }
    }

    fn climb_if_due(&mut self) {
        if self.loading.is_some() || self.state != EngineState::Serving {
            return;
        }
        if let Some(rung) = self.policy.climb_due(self.looked) {
            self.load(rung, Purpose::Climb);
        }
    }

    fn kind(&self) -> BackendKind {
        self.policy.kind(self.policy.current()).unwrap_or(BackendKind::Tract)
    }

    fn publish(&self) {
        self.status.set(EngineStatus {
            state: self.state,
            reason: self.reason.clone(),
            backend: self.info.clone().map(|info| {
                let better = self.passed_over.range(..self.policy.current());
                BackendInfo { fallbacks: better.map(|(_, why)| why.clone()).collect(), ..info }
            }),
            divisions: self.divisions.clone(),
            build: self.build_progress(),
            fatal: self.fatal,
        });
    }
}
