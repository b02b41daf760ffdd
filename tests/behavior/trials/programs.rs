//! One program: its output, how it ends, what it returns.

use std::time::Duration;

use bioxen::{ErrorKind, LuaValue, Returned, Script, Status};

use super::{ANY, COMMANDS, Entry, VALUES, run};
use crate::target::Bench;

pub(super) const TRIALS: &[Entry] = trials![
    ANY b01_output_is_exact_and_success_is_told,
    VALUES b02_a_returned_value_is_data_and_is_not_printed,
    ANY b03_errors_have_their_text_and_exit_code_1,
    ANY b04_exit_codes_arrive,
    ANY b05_blank_code_is_refused,
    ANY b06_time_that_is_up_is_told,
    ANY b07_each_execution_has_a_fresh_state,
    ANY b08_standard_input_is_empty_unless_given,
    COMMANDS d01_a_timeout_ends_grandchildren,
    ANY d02_code_may_begin_with_a_comment,
    ANY d03_code_may_have_any_size,
    ANY d04_output_may_be_any_bytes,
    ANY d05_spaces_and_line_ends_stay,
    ANY d19_empty_lines_and_prompts_in_the_output_stay,
    ANY d20_output_over_the_limit_is_cut_and_said_so,
    ANY d27_arguments_are_never_code,
];

async fn b01_output_is_exact_and_success_is_told(bench: &Bench) {
    let outcome = run(bench, "print('hi')").await;
    assert_eq!(
        (&outcome.stdout[..], &outcome.stderr[..]),
        (&b"hi\n"[..], &b""[..])
    );
    assert!(outcome.success());
}

async fn b02_a_returned_value_is_data_and_is_not_printed(bench: &Bench) {
    let outcome = run(bench, "return 4").await;
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty());
    assert_eq!(
        outcome.returned,
        Returned::Values(vec![LuaValue::Integer(4)])
    );
    let outcome = run(bench, "return {gc = 0.5}").await;
    let gc = outcome.returned.first().and_then(|value| value.get("gc"));
    assert_eq!(gc, Some(&LuaValue::Float(0.5)));
    let outcome = run(bench, "return print").await;
    assert!(outcome.success());
    assert_eq!(
        outcome.returned,
        Returned::NotData("a function at [1]".into())
    );
}

async fn b03_errors_have_their_text_and_exit_code_1(bench: &Bench) {
    for (code, part) in [
        ("error('boom')", "lua: script:1: boom\nstack traceback:\n"),
        ("x = = 1", "lua: script:1: unexpected symbol near '='"),
    ] {
        let outcome = run(bench, code).await;
        assert_eq!(outcome.status, Status::Exited(1));
        assert!(
            outcome.stderr_text().contains(part),
            "{}",
            outcome.stderr_text()
        );
    }
}

async fn b04_exit_codes_arrive(bench: &Bench) {
    for code in [7, 0, 255, 137] {
        let outcome = run(bench, format!("os.exit({code})")).await;
        assert_eq!(outcome.status, Status::Exited(code));
    }
}

async fn b05_blank_code_is_refused(bench: &Bench) {
    let error = bench.manager.execute_vm("vm", " \n").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

async fn b06_time_that_is_up_is_told(bench: &Bench) {
    let endless = "print('so far') io.stdout:flush() while true do pcall(error) end";
    let script = Script::new(endless).with_timeout(Duration::from_secs(1));
    let outcome = run(bench, script).await;
    assert_eq!(outcome.status, Status::TimedOut);
    assert_eq!(outcome.stdout_text(), "so far\n");
}

async fn b07_each_execution_has_a_fresh_state(bench: &Bench) {
    run(bench, "x = 1 string.x = 1").await;
    assert_eq!(
        run(bench, "print(x, string.x)").await.stdout_text(),
        "nil\tnil\n"
    );
}

async fn b08_standard_input_is_empty_unless_given(bench: &Bench) {
    assert_eq!(
        run(bench, "print(io.read('*a') == '')").await.stdout_text(),
        "true\n"
    );
    let script = Script::new("io.write(io.read('*a'))").with_stdin(&b"a\r\n\0\xff"[..]);
    assert_eq!(&run(bench, script).await.stdout[..], b"a\r\n\0\xff");
}

async fn d01_a_timeout_ends_grandchildren(bench: &Bench) {
    // Whoever still ran would hold the stream open, and the lock.
    let hold = "trap '' TERM; exec 9>held; flock 9; echo early; sleep 3600; echo late";
    for start in ["", "setsid "] {
        let code =
            format!("io.stdout:setvbuf('no') os.execute([[{start}sh -c \"{hold}\" & wait]])");
        let script = Script::new(code).with_timeout(Duration::from_secs(1));
        let outcome = run(bench, script).await;
        assert_eq!(outcome.status, Status::TimedOut, "{start}");
        assert_eq!(outcome.stdout_text(), "early\n", "{start}");
        let after = run(bench, "os.execute('flock -w 5 held echo free')").await;
        assert_eq!(after.stdout_text(), "free\n", "{start}");
    }
}

async fn d02_code_may_begin_with_a_comment(bench: &Bench) {
    for code in [
        "-- just a comment",
        "--[[ and ]] print(1)",
        "-v",
        "#!/usr/bin/lua\nprint(1)",
    ] {
        let outcome = run(bench, code).await;
        assert_eq!(
            outcome.success(),
            code != "-v",
            "{code}: {}",
            outcome.stderr_text()
        );
    }
}

async fn d03_code_may_have_any_size(bench: &Bench) {
    let code = format!("print(#'{}')", "ACGT".repeat(500_000));
    assert_eq!(run(bench, code).await.stdout_text(), "2000000\n");
}

async fn d04_output_may_be_any_bytes(bench: &Bench) {
    let outcome = run(bench, r"for i = 0, 255 do io.write(string.char(i)) end").await;
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(&outcome.stdout[..], &all[..]);
}

async fn d05_spaces_and_line_ends_stay(bench: &Bench) {
    let outcome = run(bench, r"io.write('  >seq1  \n\n')").await;
    assert_eq!(&outcome.stdout[..], b"  >seq1  \n\n");
}

async fn d19_empty_lines_and_prompts_in_the_output_stay(bench: &Bench) {
    let outcome = run(bench, r"io.write('> a\n\n>> b\n>c\n\n')").await;
    assert_eq!(outcome.stdout_text(), "> a\n\n>> b\n>c\n\n");
}

async fn d20_output_over_the_limit_is_cut_and_said_so(bench: &Bench) {
    let script =
        Script::new("io.write(('x'):rep(100000)) io.stderr:write('y')").with_max_output(10);
    let outcome = run(bench, script).await;
    assert_eq!(
        (&outcome.stdout[..], outcome.stdout_truncated),
        (&b"xxxxxxxxxx"[..], true)
    );
    assert_eq!(
        (&outcome.stderr[..], outcome.stderr_truncated),
        (&b"y"[..], false)
    );
    assert!(outcome.success());
}

async fn d27_arguments_are_never_code(bench: &Bench) {
    let hostile = "x',1) print('INJECTED') --$(id)`id`\n";
    let script = Script::new("io.write((...), arg[0])")
        .with_name("a 'name'")
        .arg(hostile);
    let outcome = run(bench, script).await;
    assert_eq!(outcome.stdout_text(), format!("{hostile}a 'name'"));
}
