//! What a user of `bioxen map` sees: the result on standard output or in a folder, one line for every
//! refusal, and a run that goes on after Ctrl-C and after a kill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const COUNT: &str = "
local n = 0
for line in io.lines() do
  n = n + (line:sub(1, 1) == '>' and 1 or 0)
end
local shard, shards, first = ...
print(shard, shards, first, n)
return {n = n}";

const SUM: &str = "
local results, unit = ...
local n = 0
for shard, value, output in results do
  n = n + value.n
end
print(n .. ' ' .. unit)";

struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lab = Self { folder };
        lab.file("count.lua", COUNT);
        lab.file("sum.lua", SUM);
        let records: String = (1..=10).map(|n| format!(">r{n}\nACGT\n")).collect();
        lab.file("reads.fa", &records);
        lab
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bioxen"));
        command
            .arg("map")
            .args(args)
            .current_dir(self.folder.path())
            .env("XDG_STATE_HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn map(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a run prints that succeeds.
    fn prints(&self, args: &[&str]) -> String {
        let output = self.map(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_result_is_printed_in_the_order_of_the_input() {
    let lab = Lab::new();
    let by = ["--by", "fasta", "--shard-records", "4", "--vms", "2"];
    let printed = lab.prints(&[&by[..], &["count.lua", "reads.fa"]].concat());
    assert_eq!(
        printed,
        "1\t3\t1\t4\n{\"n\":4}\n2\t3\t5\t4\n{\"n\":4}\n3\t3\t9\t2\n{\"n\":2}\n"
    );
    let gathered = [
        "--reduce",
        "sum.lua",
        "count.lua",
        "reads.fa",
        "reads.fa",
        "--",
        "records",
    ];
    assert_eq!(lab.prints(&[&by[..], &gathered].concat()), "20 records\n");
    // Progress, and where the time went, are told beside it.
    let output = lab.map(&[&by[..], &["count.lua", "reads.fa"]].concat());
    let said = said(&output);
    assert!(said.contains("10 records, 91 bytes, in 3 shards"), "{said}");
    assert!(said.contains("[3/3] shard "), "{said}");
    assert!(
        said.contains("transfer") && said.contains("total"),
        "{said}"
    );
}

#[test]
fn a_folder_has_the_result_and_json_tells_all() {
    let lab = Lab::new();
    let printed = lab.prints(&[
        "--by",
        "fasta",
        "--shards",
        "3",
        "--out",
        "out",
        "--json",
        "--reduce",
        "sum.lua",
        "count.lua",
        "reads.fa",
        "--",
        "records",
    ]);
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["event"], &lines[0]["shards"]),
        (&"split".into(), &3.into())
    );
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["event"], &last["records"]),
        (&"mapped".into(), &10.into())
    );
    assert!(last["times"]["vms"][0]["run"].as_f64().unwrap() > 0.0);
    let result = fs::read_to_string(lab.folder.path().join("out/result")).unwrap();
    assert_eq!(result, "10 records\n");
    assert_eq!(last["output"], Value::Null);

    // Without a folder the last object has the result itself, which must be text.
    let sum = ["--by", "fasta", "--json", "--reduce"];
    let run = |reduce| {
        [
            &sum[..],
            &[reduce, "count.lua", "reads.fa", "--", "records"],
        ]
        .concat()
    };
    let printed = lab.prints(&run("sum.lua"));
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(last["output"], "10 records\n");
    assert_eq!(last["result"], Value::Null);
    lab.file("bytes.lua", r"io.write('\xff')");
    let refused = lab.map(&run("bytes.lua"));
    assert_eq!(refused.status.code(), Some(125));
    let said = said(&refused);
    assert!(
        said.contains("not UTF-8") && said.contains("--out FOLDER"),
        "{said}"
    );

    let told = lab.map(&["--by", "fasta", "--out", "more", "count.lua", "reads.fa"]);
    let told = String::from_utf8(told.stderr).unwrap();
    let last = told.lines().last().unwrap();
    assert_eq!(last, "bioxen: the result is more/result");
}

#[test]
fn a_misspelt_rock_is_told_with_the_one_that_was_probably_meant() {
    let lab = Lab::new();
    let rocks = ["--server", "bioxen", "--rocks", "bio_sequence_analysys"];
    let output = lab.map(&[&["--by", "fasta"], &rocks[..], &["count.lua", "reads.fa"]].concat());
    assert!(!output.status.success());
    assert!(
        said(&output)
            .contains("no rock bio_sequence_analysys (did you mean bio_sequence_analysis?)"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_module_that_no_vm_has_is_told_whole_once_and_then_what_gives_it() {
    let lab = Lab::new();
    lab.file("lacks.lua", "require 'bio_compute'");
    let args = [
        "--by",
        "fasta",
        "--shards",
        "4",
        "--vms",
        "2",
        "lacks.lua",
        "reads.fa",
    ];
    let output = lab.map(&args);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert_eq!(said.matches("stack traceback:").count(), 1, "{said}");
    assert!(said.contains(", and is tried elsewhere"), "{said}");
    let mut last = said.lines().rev();
    let hint = last.next().unwrap();
    assert!(hint.contains("`--package bio_compute`"), "{said}");
    let error = last.next().unwrap();
    assert!(error.ends_with("module 'bio_compute' not found"), "{said}");
}

#[test]
fn a_run_that_goes_on_with_other_rocks_is_told_those_of_before() {
    let lab = Lab::new();
    let args = ["--by", "fasta", "--out", "out", "count.lua", "reads.fa"];
    let rocks = ["--server", "bioxen", "--package", "bio_compute"];
    lab.prints(&[&rocks[..], &args].concat());
    let output = lab.map(&[&["--resume"], &args[..]].concat());
    assert_eq!(output.status.code(), Some(125));
    assert!(
        said(&output)
            .contains("no rock in place of bio_compute (--package bio_compute); go on with"),
        "{}",
        said(&output)
    );
    // With those it goes on, and what was noted of the times before stays.
    let times = |name| fs::read(lab.folder.path().join("out").join(name)).unwrap();
    let before = times("times.json");
    lab.prints(&[&["--resume"], &rocks[..], &args].concat());
    assert_eq!(times("times-1.json"), before);
}

#[test]
fn of_paired_inputs_pairs_are_counted() {
    let lab = Lab::new();
    lab.file(
        "a.fq",
        "@a/1\nAC\n+\nII\n@b/1\nGG\n+\nII\n@c/1\nTT\n+\nII\n",
    );
    lab.file(
        "b.fq",
        "@a/2\nAC\n+\nII\n@b/2\nGG\n+\nII\n@c/2\nTT\n+\nII\n",
    );
    lab.file("first.lua", "print(select(3, ...), #io.read('a'))");
    let pairs = ["--by", "fastq", "--paired", "--shard-records", "2"];
    let output = lab.map(&[&pairs[..], &["first.lua", "a.fq", "b.fq"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\t52\n3\t26\n");
    let said = said(&output);
    assert!(said.contains("3 records, 78 bytes, in 2 shards"), "{said}");
}

#[test]
fn what_cannot_be_mapped_is_refused_in_one_line_before_anything_is_made() {
    let lab = Lab::new();
    lab.file("cut.fq", "@a\nACGT\n+\nIIII\n@b\nAC\n");
    lab.file("other.fq", "@x\nACGT\n+\nIIII\n@b\nAC\n+\nII\n");
    lab.file("good.fq", "@a\nACGT\n+\nIIII\n@b\nAC\n+\nII\n");
    let fastq = ["--by", "fastq", "count.lua"];
    for (args, reason) in [
        (
            &[&fastq[..], &["cut.fq"]].concat(),
            "cut.fq: record 2, line 6: the record is cut short",
        ),
        (
            &[&fastq[..], &["reads.fa"]].concat(),
            "reads.fa: record 1, line 1: the title",
        ),
        (
            &vec!["--by", "fasta", "count.lua", "good.fq"],
            "good.fq: line 1: this looks like FASTQ; say so with the format fastq (--by fastq)",
        ),
        (
            &[&fastq[..], &["--paired", "good.fq", "other.fq"]].concat(),
            "\"x\" is no pair of \"a\"",
        ),
        (
            &[&fastq[..], &["--paired", "good.fq"]].concat(),
            "two files",
        ),
        (
            &[&fastq[..], &["missing.fq"]].concat(),
            "cannot read missing.fq: No such file or directory (os error 2)\n",
        ),
        (
            &[&fastq[..], &["good.fq", "-"]].concat(),
            "map reads files, not standard input",
        ),
        (
            &vec!["--by", "fastq", "missing.lua", "good.fq"],
            "cannot read the program missing.lua",
        ),
        (
            &[&fastq[..], &["--set", "memry=1GB", "good.fq"]].concat(),
            "memry",
        ),
    ] {
        let output = lab.map(args);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {said}");
        assert!(said.contains(reason), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn a_folder_of_a_newer_form_is_refused_by_name() {
    let lab = Lab::new();
    let args = [
        "--by",
        "fasta",
        "--vms",
        "1",
        "--out",
        "out",
        "count.lua",
        "reads.fa",
    ];
    lab.prints(&args);
    let plan = lab.folder.path().join("out/plan.json");
    let newer = fs::read_to_string(&plan)
        .unwrap()
        .replace("\"format\": 1", "\"format\": 2");
    fs::write(&plan, newer.replacen('{', "{\"more\": true,", 1)).unwrap();
    let said = said(&lab.map(&[&["--resume"], &args[..]].concat()));
    assert!(
        said.contains("what a newer bioxen has begun (form 2"),
        "{said}"
    );
}

#[test]
fn a_run_that_failed_leaves_neither_unpacked_input_nor_a_folder_that_only_it_can_use() {
    let lab = Lab::new();
    let packed = Command::new("gzip")
        .arg("reads.fa")
        .current_dir(&lab.folder)
        .status();
    assert!(packed.unwrap().success());
    lab.file("wrong.lua", "error('on purpose')");
    let args = ["--by", "fasta", "--vms", "1", "--out", "out"];
    let failed = lab.map(&[&args[..], &["wrong.lua", "reads.fa.gz"]].concat());
    assert_eq!(failed.status.code(), Some(125));
    assert!(!said(&failed).contains("--resume"), "{}", said(&failed));
    assert!(!lab.folder.path().join("out/input-1").exists());
    lab.prints(&[&args[..], &["count.lua", "reads.fa.gz"]].concat());
    assert!(!lab.folder.path().join("out/input-1").exists());
}

#[test]
fn a_reduce_program_that_reads_standard_input_is_told_where_the_results_are() {
    let lab = Lab::new();
    for code in [
        "io.read('a')",
        "for l in io.lines() do end",
        "io.stdin:read('l')",
        "io.input():read()",
    ] {
        lab.file("naive.lua", code);
        let args = ["--by", "fasta", "--vms", "1", "--reduce", "naive.lua"];
        let failed = lab.map(&[&args[..], &["count.lua", "reads.fa"]].concat());
        let said = said(&failed);
        assert_eq!(failed.status.code(), Some(125), "{code}: {said}");
        assert!(
            said.contains("its first argument gives the results"),
            "{said}"
        );
        assert!(said.contains("naive.lua:1"), "{said}");
    }
    lab.file(
        "file.lua",
        "local own = ... io.output('own'):write('7'):close() io.input('own') print(io.read('n'))",
    );
    let args = ["--by", "fasta", "--vms", "1", "--reduce", "file.lua"];
    assert_eq!(
        lab.prints(&[&args[..], &["count.lua", "reads.fa"]].concat()),
        "7\n"
    );
}

#[test]
fn what_a_reduce_program_returns_and_json_cannot_hold_is_told_as_such() {
    let lab = Lab::new();
    lab.file("nan.lua", "for _ in ... do end return 0/0");
    let args = ["--by", "fasta", "--vms", "1", "--reduce", "nan.lua"];
    let failed = lab.map(&[&args[..], &["count.lua", "reads.fa"]].concat());
    let said = said(&failed);
    assert!(
        said.contains("what the reduce program returned cannot be written as JSON"),
        "{said}"
    );
}

/// Begins a run that does not come further than the second shard, ends it by a signal once it is
/// there, and lets it go on.
fn ends_and_goes_on(signal: Signal) -> (Option<i32>, String) {
    let lab = Lab::new();
    let flag = lab.folder.path().join("go");
    let program = format!(
        "if (...) == '2' then
          repeat until io.open('{0}')
        end
        io.write(io.read('a'))",
        flag.display()
    );
    lab.file("slow.lua", &program);
    let readable = format!("read={:?}", [lab.folder.path()]);
    let args = [
        "--by",
        "fasta",
        "--shard-records",
        "3",
        "--vms",
        "1",
        "--out",
        "out",
        "--set",
        &readable,
        "slow.lua",
        "reads.fa",
    ];
    let mut running = lab
        .command(&[&["--json"], &args[..]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(running.stdout.take().unwrap());
    let mut lines = told.lines().map(Result::unwrap);
    lines
        .find(|line| line.contains("\"started\"") && line.contains("\"shard\":2"))
        .unwrap();
    kill(Pid::from_raw(running.id().try_into().unwrap()), signal).unwrap();
    drop(lines);
    let ended = running.wait_with_output().unwrap();
    assert!(is_done(&lab, 1) && !is_done(&lab, 2));

    fs::write(flag, "").unwrap();
    let output = lab.map(&args);
    assert!(
        said(&output).contains("out has what a run has done (1 shards); go on with it (--resume)"),
        "{}",
        said(&output)
    );
    let output = lab.map(&[&["--resume"], &args[..]].concat());
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("in 4 shards, 1 of which are done"),
        "{}",
        said(&output)
    );
    let result = fs::read(lab.folder.path().join("out/result")).unwrap();
    assert_eq!(
        result,
        fs::read(lab.folder.path().join("reads.fa")).unwrap()
    );
    (ended.status.code(), said(&ended))
}

fn is_done(lab: &Lab, shard: usize) -> bool {
    let entry = format!("out/shards/{shard:06}.json");
    Path::new(lab.folder.path()).join(entry).is_file()
}

#[test]
fn a_run_that_was_interrupted_says_how_to_go_on_and_goes_on() {
    let (code, said) = ends_and_goes_on(Signal::SIGINT);
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(
        said,
        "bioxen: what is done stays in out; --resume goes on there\n"
    );
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let (code, _) = ends_and_goes_on(Signal::SIGKILL);
    assert_eq!(code, None);
}

/// Asks a page over HTTP.
fn get(url: &str) -> String {
    use std::io::{Read as _, Write as _};
    let (address, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn numbers_of_a_run_are_served_for_prometheus_while_it_runs() {
    let lab = Lab::new();
    lab.file("endless.lua", "while true do end");
    let mut child = lab
        .command(&[
            "--by",
            "fasta",
            "--vms",
            "1",
            "--metrics",
            "127.0.0.1:0",
            "endless.lua",
            "reads.fa",
        ])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let line = told.find(|line| line.contains("metrics are at")).unwrap();
    let url = line.rsplit(' ').next().unwrap();
    // The lines that tell of shards come before their programs start by a moment.
    let page = loop {
        let page = get(url);
        if page.contains("bioxen_executions_running 1\n") {
            break page;
        }
    };
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    assert!(page.contains("bioxen_vms{type=\"basic\"} 1\n"), "{page}");
    assert!(page.contains("bioxen_vms_created_total 1\n"), "{page}");
    assert!(get(&url.replace("/metrics", "/")).starts_with("HTTP/1.1 404"));
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
