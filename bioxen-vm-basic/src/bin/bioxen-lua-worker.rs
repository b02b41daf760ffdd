//! Runs one Lua program for a BioXen VM of type basic, which starts it.

fn main() -> std::process::ExitCode {
    bioxen_vm_basic::worker::main()
}
