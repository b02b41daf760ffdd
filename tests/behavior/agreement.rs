//! Any bytes give the same everywhere: as code, as arguments, as a variable, as input.

mod program;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use bioxen::{Outcome, Returned, Script, Status};
use bytes::Bytes;
use libtest_mimic::Trial;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any};
use proptest::test_runner::{TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};

use crate::target::{Bench, TARGETS, Target};
use crate::trials::run;

/// How many programs of each kind every kind of VM is given.
const CASES: u32 = 20;

/// Tells all that came to it: input, a variable, arguments. The same in every Lua.
const TELL: &str = "io.write(io.read('*a'), '|', os.getenv('E') or '', '|') \
                    for i = 1, #arg do io.write(#arg[i], ':', arg[i]) end \
                    return #arg, arg[1]";

type Benches = [(Target, Bench)];

/// All kinds of VMs give the same bytes for any bytes, and for any program of [`program::any`].
pub(crate) fn trial() -> Trial {
    Trial::test("agreement::any_bytes_give_the_same_everywhere", || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let mut benches = Vec::new();
        for target in TARGETS {
            benches.push((target, runtime.block_on(target.bench())));
        }
        let bytes = |most| vec(any::<u8>(), 0..=most);
        let inputs = (
            bytes(60),
            program::any(),
            bytes(5000),
            vec(bytes(300), 0..4),
            // A variable of a process holds no NUL.
            vec(1_u8.., 0..40),
        );
        let mut runner = TestRunner::new(ProptestConfig {
            cases: CASES,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let result = runner.run(&inputs, |(code, program, input, args, variable)| {
            let variable = OsString::from_vec(variable);
            let mut tell = Script::new(TELL).with_stdin(input).with_env("E", variable);
            tell.args = args.into_iter().map(Into::into).collect();
            runtime.block_on(async {
                agree_on_what_they_are_given(&benches, &tell).await?;
                agree_on_bytes(&benches, code).await?;
                agree_on_a_program(&benches, program).await
            })
        });
        for (_, bench) in benches {
            runtime.block_on(bench.end());
        }
        result.map_err(|error| error.to_string().into())
    })
}

async fn agree_on_what_they_are_given(
    benches: &Benches,
    tell: &Script,
) -> Result<(), TestCaseError> {
    let mut first = None;
    for (target, bench) in benches {
        let told = ending(run(bench, tell.clone()).await);
        prop_assert_eq!(&told.0, &Status::Exited(0), "{}", target.name);
        prop_assert_eq!(first.get_or_insert_with(|| told.clone()), &told);
    }
    Ok(())
}

/// Seldom a program, always an answer.
async fn agree_on_bytes(benches: &Benches, code: Vec<u8>) -> Result<(), TestCaseError> {
    let script = Script::new(code).with_name("any");
    if script.validate().is_err() {
        return Ok(());
    }
    let mut newest = None;
    for (target, bench) in benches {
        let outcome = ending(run(bench, script.clone()).await);
        if target.is_newest() {
            prop_assert_eq!(newest.get_or_insert_with(|| outcome.clone()), &outcome);
        } else {
            // Each Lua has its own words for what is wrong.
            let fails = outcome.0 == Status::Exited(1) && outcome.2.starts_with(b"lua: any:");
            prop_assert!(fails || outcome.0 == Status::Exited(0), "{:?}", outcome);
        }
    }
    Ok(())
}

/// Always a program, of every Lua, so only the words about what goes wrong in it may differ.
async fn agree_on_a_program(benches: &Benches, code: Vec<u8>) -> Result<(), TestCaseError> {
    let script = Script::new(code).with_name("any");
    let (mut first, mut newest) = (None, None);
    for (target, bench) in benches {
        let outcome = ending(run(bench, script.clone()).await);
        let begun = outcome.1.starts_with(program::BEGUN.as_bytes());
        prop_assert!(begun, "{} takes it for none: {:?}", target.name, outcome);
        if target.is_newest() {
            prop_assert_eq!(newest.get_or_insert_with(|| outcome.clone()), &outcome);
        }
        let (status, stdout, stderr, returned) = outcome;
        let same = (status, stdout, stderr.is_empty(), returned);
        prop_assert_eq!(first.get_or_insert_with(|| same.clone()), &same);
    }
    Ok(())
}

/// What is the same in every VM.
fn ending(outcome: Outcome) -> (Status, Bytes, Bytes, Returned) {
    let Outcome {
        status,
        stdout,
        stderr,
        returned,
        ..
    } = outcome;
    (status, stdout, stderr, returned)
}
