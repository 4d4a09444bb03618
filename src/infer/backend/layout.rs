//! The session layout on a CPU: several sessions of one thread side by side, each on its own frame, or one session whose
//! threads share a frame. Which is faster depends on model and machine, so it is measured.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::infer::backend::load::Loaded;
use crate::infer::{InferError, Session};
use crate::model::{Input, ModelSpec};
use crate::types::{BackendKind, SessionLayout};

/// After a longer warm-up nothing is measured, so that a service does not start late.
const TOO_SLOW: Duration = Duration::from_secs(1);
/// How long one layout is measured, about.
const BUDGET: Duration = Duration::from_millis(300);
/// One session must be faster by this factor: with sessions side by side a slow frame delays no other, and one camera
/// uses one thread only.
const WORTH: f64 = 1.1;

/// Runs `sessions` side by side, in whole batches, and returns the time per frame.
fn measure(
    spec: &ModelSpec,
    kind: BackendKind,
    sessions: &mut [&mut dyn Session],
    warm_up: Duration,
) -> Result<Duration, InferError> {
    let runs = (BUDGET.as_secs_f64() / warm_up.as_secs_f64().max(1e-4)).round().clamp(2.0, 50.0) as u32;
    let count = sessions.len();
    let batch = sessions.iter().map(|session| session.batch()).max().unwrap_or(1);
    let grey = spec.input.empty_frame();
    let panicked = || InferError::Run { backend: kind, reason: "it panicked while it was measured".into() };
    std::thread::scope(|scope| {
        let (ready, all_ready) = channel();
        let mut threads = Vec::with_capacity(count);
        for session in sessions.iter_mut() {
            let (go, start) = channel();
            let (ready, grey) = (ready.clone(), &grey);
            let work = move || {
                let frames = vec![Input::Planes(grey); session.batch()];
                let mut run = || {
                    let run = AssertUnwindSafe(|| session.run(&frames, &mut |_, _| {}));
                    catch_unwind(run).unwrap_or_else(|_| Err(panicked()))
                };
                // The first run of a session allocates its memory.
                let first = run();
                let _ = ready.send(());
                // An error here means that another thread could not be started.
                if start.recv().is_err() {
                    return first;
                }
                first.and_then(|()| (0..runs).try_for_each(|_| run()))
            };
            let name = "infer-measure".to_owned();
            let thread = std::thread::Builder::new().name(name.clone()).spawn_scoped(scope, work);
            let thread = thread.map_err(|error| InferError::Thread { name, reason: error.to_string() })?;
            threads.push((go, thread));
        }
        for _ in 0..count {
            all_ready.recv().map_err(|_| panicked())?;
        }
        let begun = Instant::now();
        for (go, _) in &threads {
            go.send(()).map_err(|_| panicked())?;
        }
        for (_, thread) in threads {
            thread.join().unwrap_or_else(|_| Err(panicked()))?;
        }
        Ok(begun.elapsed() / runs / (count * batch).max(1) as u32)
    })
}

/// Measures both layouts: `sessions` of one thread each, the first of them loaded already, and one with as many threads,
/// which `together` loads. `loaded` gets the session and the layout of the better one. Nothing is measured if that would
/// take too long.
pub(in crate::infer) fn try_both(
    spec: &ModelSpec,
    loaded: &mut Loaded,
    sessions: usize,
    together: impl FnOnce() -> Result<Box<dyn Session>, InferError>,
) -> Result<(), InferError> {
    if loaded.warm_up >= TOO_SLOW {
        return Ok(());
    }
    let fork = loaded.session.fork();
    let mut others = (1..sessions).map(|_| fork()).collect::<Result<Vec<_>, _>>()?;
    let mut apart: Vec<&mut dyn Session> = vec![loaded.session.as_mut()];
    for other in &mut others {
        apart.push(other.as_mut());
    }
    let per_frame = measure(spec, loaded.kind, &mut apart, loaded.warm_up)?;
    let side_by_side = SessionLayout { sessions, threads: 1, per_frame: Some(per_frame) };
    drop(others);
    let mut one = together()?;
    let per_frame = measure(spec, loaded.kind, &mut [one.as_mut()], loaded.warm_up)?;
    let together = SessionLayout { sessions: 1, threads: sessions, per_frame: Some(per_frame) };
    loaded.layouts = choose(side_by_side, together);
    let texts: Vec<String> = loaded.layouts.iter().map(SessionLayout::to_string).collect();
    tracing::info!("{}: {}", loaded.kind, texts.join(" rather than "));
    if loaded.layouts.first().is_some_and(|best| best.sessions == 1) {
        loaded.session = one;
    }
    Ok(())
}

/// Puts the better layout first.
fn choose(side_by_side: SessionLayout, together: SessionLayout) -> Vec<SessionLayout> {
    match (side_by_side.per_frame, together.per_frame) {
        (Some(apart), Some(one)) if one.as_secs_f64() * WORTH < apart.as_secs_f64() => vec![together, side_by_side],
        _ => vec![side_by_side, together],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::backend::fake::{FakeSession, Fault, Script, spec};

    fn way(sessions: usize, threads: usize, ms: u64) -> SessionLayout {
        SessionLayout { sessions, threads, per_frame: Some(Duration::from_millis(ms)) }
    }

    #[test]
    fn one_session_must_be_clearly_faster() {
        assert_eq!(choose(way(2, 1, 100), way(1, 2, 60))[0], way(1, 2, 60));
        assert_eq!(choose(way(2, 1, 100), way(1, 2, 95))[0], way(2, 1, 100));
        assert_eq!(choose(way(2, 1, 60), way(1, 2, 100)), [way(2, 1, 60), way(1, 2, 100)]);
    }

    #[test]
    fn all_sessions_run_and_errors_are_returned() {
        let script = Script::open();
        let mut fakes = [(); 3].map(|()| FakeSession::new(&script));
        let mut sessions = fakes.each_mut().map(|session| session as &mut dyn Session);
        measure(&spec(), BackendKind::Tract, &mut sessions, Duration::from_millis(100)).unwrap();
        // Three runs of each that count, and one before.
        assert_eq!(script.ran().len(), 12);
        // A model with a batch is measured by whole batches, as it will run.
        let mut batching = FakeSession::batching(&script, 4);
        measure(&spec(), BackendKind::Tract, &mut [&mut batching], Duration::from_millis(100)).unwrap();
        assert_eq!(script.runs()[12..], [4; 4]);
        script.fault(Some(Fault::Error("no")));
        let error = measure(&spec(), BackendKind::Tract, &mut sessions, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, InferError::Run { reason, .. } if reason == "no"));
    }
}
