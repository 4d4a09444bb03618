//! The `ocelli` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    ocelli::cli::main()
}
