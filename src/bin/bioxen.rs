//! The `bioxen` program.

fn main() -> std::process::ExitCode {
    bioxen::cli::main()
}
