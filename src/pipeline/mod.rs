//! One camera from frame to result: the thread between its source, the shared engine and the sinks.
