//! What a run over many records promises, shown in VMs of type `basic`: order, retries, what is
//! refused before any VM is made, and going on after a crash.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bioxen::map::{Format, Input, Map, MapEvent, Mapped, Shards};
use bioxen::{
    Backend, Error, ErrorKind, Gather, LuaValue, LuaVm, Outcome, OutputSink, Result, Script,
    Status, Value, VmId, VmInfo, VmManager, VmState,
};
use serde_json::json;

/// Writes every line with the shard's own numbers, and returns how many there were.
const NUMBER: &str = "
local shard, shards, first = ...
local count = 0
for line in io.lines() do
  print(first + count, line)
  count = count + 1
end
return {shard = tonumber(shard), shards = tonumber(shards), count = count}";

struct Lab {
    folder: tempfile::TempDir,
    manager: Arc<VmManager>,
}

impl Lab {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            manager: Arc::new(VmManager::new(bioxen::factory())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn lines(&self, count: usize) -> Input {
        let text: String = (1..=count).map(|line| format!("line {line}\n")).collect();
        fs::write(self.path("lines"), text).unwrap();
        Input::new([self.path("lines")], Format::Lines)
    }

    async fn run(&self, map: &Map) -> Result<Mapped> {
        let result = map.run(&self.manager).await;
        assert!(self.manager.vms().is_empty(), "VMs are left");
        result
    }
}

fn config() -> Value {
    json!({"worker": env!("CARGO_BIN_EXE_bioxen"), "write": ["/tmp"]})
}

fn map(program: &str, input: Input, vms: usize) -> Map {
    Map::new(Script::new(program.to_owned()), input).on("basic", config(), vms)
}

fn text(mapped: &Mapped) -> String {
    let mut text = String::new();
    mapped.open().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn events(receiver: &mut tokio::sync::broadcast::Receiver<MapEvent>) -> Vec<MapEvent> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_in_the_order_of_the_input_from_any_number_of_vms() {
    let lab = Lab::new();
    let input = lab.lines(100);
    let expected: String = (1..=100)
        .map(|line| format!("{line}\tline {line}\n"))
        .collect();
    let print_only = NUMBER.replace("return {", "local _ = {");
    for (vms, shards) in [
        (1, Shards::Count(1)),
        (3, Shards::Count(7)),
        (4, Shards::Records(9)),
    ] {
        let mapped = map(&print_only, input.clone(), vms).with_shards(shards);
        let mapped = lab.run(&mapped).await.unwrap();
        assert_eq!(text(&mapped), expected, "{vms} VMs");
        assert_eq!(mapped.records, 100);
        assert!(mapped.times.vms.len() <= vms);
        let shards: u64 = mapped.times.vms.iter().map(|vm| vm.shards).sum();
        assert_eq!(shards, mapped.shards as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_lines_of_json_or_go_to_a_program_that_gathers() {
    let lab = Lab::new();
    let silent = "local n = 0 for _ in io.lines() do n = n + 1 end return {n = n}";
    let counted = map(silent, lab.lines(10), 2).with_shards(Shards::Records(4));
    let mapped = lab.run(&counted).await.unwrap();
    assert_eq!(text(&mapped), "{\"n\":4}\n{\"n\":4}\n{\"n\":2}\n");
    assert_eq!(mapped.values().count(), 3);

    // Values arrive as they were: bytes, infinite numbers, integers and floats apart.
    let odd = "io.write(...) return {'\\255', 1/0, 2, 2.0, x = {true, y = 'z'}, [0.5] = -1}";
    let reduce = "
        local results, word = ...
        local shards, outputs = {}, {}
        for shard, value, output in results do
          assert(value[1] == '\\255' and value[2] == 1/0 and value.x[1] == true and value[0.5] == -1)
          assert(math.type(value[3]) == 'integer' and math.type(value[4]) == 'float')
          shards[#shards + 1], outputs[#outputs + 1] = shard, output
        end
        print(word, arg[0], arg[1])
        return {shards = shards, outputs = outputs, y = 'z'}";
    let odd = map(odd, lab.lines(4), 2).with_shards(Shards::Records(2));
    let reduce = Script::new(reduce).with_name("reduce.lua").arg("word");
    let mapped = lab.run(&odd.clone().with_reduce(reduce)).await.unwrap();
    assert_eq!(
        text(&mapped),
        "word\treduce.lua\tword\n{\"outputs\":[\"121\",\"223\"],\"shards\":[1,2],\"y\":\"z\"}\n"
    );
    assert_eq!(mapped.value.get("y").and_then(LuaValue::as_str), Some("z"));
    // And what JSON cannot hold is not made up.
    let error = lab.run(&odd).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("shard 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_not_whole_is_refused_before_any_vm_is_made() {
    let lab = Lab::new();
    fs::write(lab.path("x.fq"), "@a\nAC\n+\nII\n@b\nACGT\n+\nI").unwrap();
    let input = Input::new([lab.path("x.fq")], Format::Fastq);
    let mut happening = lab.manager.subscribe();
    let error = lab
        .run(&map(NUMBER, input, 2))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error
            .contains("x.fq: record 2, line 8: the record is cut short: 1 qualities for 4 letters"),
        "{error}"
    );
    drop(lab.manager);
    assert!(happening.next().await.is_none(), "a VM was made");
}

/// A program that fails, or kills its process, the first time that it sees line 5.
fn once(flag: &Path, how: &str) -> String {
    format!(
        "local text = io.read('a')
        if text:find('line 5\\n') and not io.open('{0}') then
          io.open('{0}', 'w'):close()
          {how}
        end
        io.write(text)",
        flag.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_fails_is_tried_in_another_vm() {
    let lab = Lab::new();
    let input = lab.lines(9);
    let expected = fs::read_to_string(lab.path("lines")).unwrap();
    let flag = lab.path("flag");
    let program = once(&flag, "error('odd weather', 0)");
    let failing = map(&program, input.clone(), 2).with_shards(Shards::Records(1));
    let mut receiver = failing.subscribe();
    let mapped = lab.run(&failing).await.unwrap();
    assert_eq!(text(&mapped), expected);
    let retried: Vec<_> = events(&mut receiver)
        .into_iter()
        .filter(|event| matches!(event, MapEvent::Retried { .. }))
        .collect();
    let [
        MapEvent::Retried {
            shard, vm, reason, ..
        },
    ] = &retried[..]
    else {
        panic!("{retried:?}");
    };
    assert_eq!(*shard, Some(5));
    assert!(vm.starts_with("map-"), "{vm}");
    assert!(reason.contains("exit code 1: lua: odd weather"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_replaced_for_a_shard_that_failed_in_all_there_are() {
    let lab = Lab::new();
    let input = lab.lines(9);
    let expected = fs::read_to_string(lab.path("lines")).unwrap();
    let flag = lab.path("flag");
    let program = once(&flag, "error('odd weather', 0)");
    // One VM is asked for, or there is work for one only.
    for (vms, shards) in [(1, Shards::Records(1)), (4, Shards::Count(1))] {
        let alone = map(&program, input.clone(), vms).with_shards(shards);
        let mut receiver = alone.subscribe();
        let mapped = lab.run(&alone).await.unwrap();
        assert_eq!(text(&mapped), expected);
        let made: Vec<_> = events(&mut receiver)
            .into_iter()
            .filter_map(|event| match event {
                MapEvent::Ready { vm, .. } => Some(vm),
                _ => None,
            })
            .collect();
        assert_eq!(made, ["map-1", "map-1.2"]);
        fs::remove_file(&flag).unwrap();
    }
    // Also for the program that gathers, after any number of shards that failed once.
    let each_once = format!(
        "local flag = '{}' .. (...)
        if not io.open(flag) then io.open(flag, 'w'):close() error('odd weather', 0) end",
        flag.display()
    );
    let reduce = Script::new(each_once.replace("(...)", "'reduce'"));
    let moody = map(&each_once, input.clone(), 1)
        .with_shards(Shards::Records(2))
        .with_reduce(reduce);
    let mapped = lab.run(&moody).await.unwrap();
    assert_eq!(mapped.times.vms[0].vm, "map-1.7");

    let never = map("error('always', 0)", input, 2).with_shards(Shards::Count(1));
    let error = lab.run(&never).await.unwrap_err().to_string();
    assert!(
        error.contains("the program on shard 1 failed (tried in map-1, map-1.2)")
            && error.contains("always"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_always_fails_ends_the_run_after_two_vms_and_others_stay_done() {
    let lab = Lab::new();
    let out = lab.path("out");
    // Waits for another shard, so that one is done for certain.
    let program = format!(
        "if (...) == '3' then
          repeat until io.open('{}/shards/000001.json')
          os.exit(7)
        end
        print(1)",
        out.display()
    );
    let failing = map(&program, lab.lines(8), 3)
        .with_shards(Shards::Records(1))
        .in_folder(&out, false);
    let error = lab.run(&failing).await.unwrap_err().to_string();
    assert!(error.contains("shard 3 failed (tried in map-"), "{error}");
    assert!(error.contains("exit code 7: it said nothing"), "{error}");
    assert!(out.join("shards/000001.out").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_it_was_ended_and_does_nothing_twice() {
    let lab = Lab::new();
    let input = lab.lines(12);
    let (out, log) = (lab.path("out"), lab.path("log"));
    fs::write(&log, "").unwrap();
    let program = format!(
        "local text = io.read('a')
        local log = io.open('{0}', 'a') log:write((...), ' ') log:close()
        if (...) == '4' and not io.open('{0}.go') then error('stop', 0) end
        io.write(text) return #text",
        log.display()
    );
    let begin = map(&program, input.clone(), 1)
        .with_shards(Shards::Records(2))
        .in_folder(&out, false);
    lab.run(&begin).await.unwrap_err();
    // The fourth was tried in two VMs.
    assert_eq!(fs::read_to_string(&log).unwrap(), "1 2 3 4 4 ");

    // Not by accident,
    let error = lab.run(&begin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    // nor with something else.
    let go_on = |program: &str, vms| map(program, input.clone(), vms).in_folder(&out, true);
    let error = lab
        .run(&go_on("return 1", 1))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the program script, which has changed"),
        "{error}"
    );
    let lines = fs::read_to_string(lab.path("lines")).unwrap();
    fs::write(lab.path("lines"), lines.replace("line 9", "line X")).unwrap();
    let error = lab.run(&go_on(&program, 1)).await.unwrap_err().to_string();
    assert!(error.contains("lines, which has changed"), "{error}");
    fs::write(lab.path("lines"), &lines).unwrap();

    fs::write(format!("{}.go", log.display()), "").unwrap();
    // A result that was damaged meanwhile is not trusted.
    fs::write(out.join("shards/000002.out"), "nonsense").unwrap();
    let mapped = lab.run(&go_on(&program, 2)).await.unwrap();
    assert_eq!((mapped.shards, mapped.resumed), (6, 2));
    let mut again: Vec<_> = fs::read_to_string(&log).unwrap()["1 2 3 4 4 ".len()..]
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    again.sort();
    assert_eq!(again, ["2", "4", "5", "6"]);
    let expected: String = lines
        .as_bytes()
        .split_inclusive(|byte| *byte == b'\n')
        .collect::<Vec<_>>()
        .chunks(2)
        .map(|pair| {
            let text = String::from_utf8(pair.concat()).unwrap();
            format!("{text}{}\n", text.len())
        })
        .collect();
    assert_eq!(text(&mapped), expected);
    assert!(out.join("times.json").is_file());

    // All is done: the results are only gathered, this time by a program.
    drop(mapped);
    let reduce = Script::new("local r, n = ..., 0 for _, v in r do n = n + v end return n");
    let mapped = lab
        .run(&go_on(&program, 2).with_reduce(reduce))
        .await
        .unwrap();
    assert_eq!(
        mapped.value,
        LuaValue::Integer(i64::try_from(lines.len()).unwrap())
    );
    assert_eq!(mapped.resumed, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_there_before_programs_run() {
    let lab = Lab::new();
    fs::write(lab.path("genome.fa"), ">lambda\nGGGCGG\n").unwrap();
    let program = "return io.open('genome.fa'):read('a')";
    let with_file = map(program, lab.lines(1), 1).with_file(lab.path("genome.fa"), "genome.fa");
    let mapped = lab.run(&with_file).await.unwrap();
    assert_eq!(text(&mapped), "\">lambda\\nGGGCGG\\n\"\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_run_leaves_its_vms_to_the_manager_and_what_is_done_in_its_folder() {
    let lab = Lab::new();
    let out = lab.path("out");
    let program = "if (...) == '3' then while true do end end io.write(io.read('a'))";
    let endless = map(program, lab.lines(3), 1)
        .with_shards(Shards::Records(1))
        .in_folder(&out, false);
    let mut receiver = endless.subscribe();
    let manager = Arc::clone(&lab.manager);
    let running = tokio::spawn(async move { endless.run(&manager).await.map(drop) });
    loop {
        if let MapEvent::Started { shard: 3, .. } = receiver.recv().await.unwrap() {
            break;
        }
    }
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    lab.manager.shutdown_all().await.unwrap();
    assert!(lab.manager.vms().is_empty());
    assert!(out.join("shards/000002.json").is_file());
    let program = program.replace("while true do end", "");
    let changed = map(&program, lab.lines(3), 1).in_folder(&out, true);
    let error = lab.run(&changed).await.unwrap_err().to_string();
    assert!(error.contains("which has changed"), "{error}");
}

/// Makes VMs that run no Lua: programs end at once and write nothing, until the VM breaks for good.
#[derive(Debug)]
struct Frail {
    /// How many programs each VM runs before it breaks.
    lasts: usize,
    /// How the programs end.
    exit: i32,
    /// The VM that cannot be made.
    missing: &'static str,
}

#[derive(Debug)]
struct FrailVm {
    id: VmId,
    left: AtomicUsize,
    exit: i32,
}

#[async_trait::async_trait]
impl Backend for Frail {
    fn vm_type(&self) -> &'static str {
        "frail"
    }

    async fn create(&self, id: VmId) -> Result<Arc<dyn LuaVm>> {
        if id.as_str() == self.missing {
            return Err(Error::new(ErrorKind::Exhausted, "no room"));
        }
        let left = AtomicUsize::new(self.lasts);
        let exit = self.exit;
        Ok(Arc::new(FrailVm { id, left, exit }))
    }
}

#[async_trait::async_trait]
impl LuaVm for FrailVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    fn vm_type(&self) -> &'static str {
        "frail"
    }

    async fn info(&self) -> Result<VmInfo> {
        Ok(VmInfo::new(self.id.clone(), "frail", VmState::Running))
    }

    async fn start(&self) -> Result<()> {
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        Ok(())
    }

    async fn execute(&self, script: Script) -> Result<Outcome> {
        let mut nowhere = Gather::new(0);
        self.execute_streaming(script, &mut nowhere).await
    }

    async fn execute_streaming(&self, _: Script, _: &mut dyn OutputSink) -> Result<Outcome> {
        let one_less = |left: usize| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        match taken {
            Ok(_) => Ok(Outcome::new(Status::Exited(self.exit))),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the cable is out")),
        }
    }

    async fn destroy(&self) -> Result<()> {
        Ok(())
    }
}

/// Runs over as many shards in frail VMs, and gives how it ended and what was told.
async fn in_frail_vms(frail: Frail, shards: u64, vms: usize) -> (Result<()>, Vec<MapEvent>) {
    let mut lab = Lab::new();
    let manager = VmManager::new(bioxen::factory()).with_backend(Arc::new(frail));
    lab.manager = Arc::new(manager);
    let map = Map::new(Script::new("x = 1"), lab.lines(24))
        .on("frail", Value::Null, vms)
        .with_shards(Shards::Count(shards));
    let mut receiver = map.subscribe();
    let result = lab.run(&map).await.map(drop);
    (result, events(&mut receiver))
}

#[tokio::test]
async fn a_vm_that_breaks_is_replaced_twice() {
    let frail = |lasts| Frail {
        lasts,
        exit: 0,
        missing: "",
    };
    let (result, told) = in_frail_vms(frail(2), 6, 1).await;
    result.unwrap();
    let lost: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            MapEvent::Retried { vm, lost: true, .. } => Some(vm.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(lost, ["map-1", "map-1.2"]);

    let (result, _) = in_frail_vms(frail(2), 7, 1).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("the cable is out"), "{error}");
    // Wherever it is tried.
    let (result, _) = in_frail_vms(frail(0), 1, 1).await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the program on shard 1 could not be run (tried in map-1, map-1.2, map-1.3)"
    );
}

#[tokio::test]
async fn a_vm_that_cannot_be_made_is_left_out_unless_it_is_the_last() {
    let frail = || Frail {
        lasts: 9,
        exit: 0,
        missing: "map-2",
    };
    let (result, told) = in_frail_vms(frail(), 8, 2).await;
    result.unwrap();
    let left = told
        .iter()
        .filter(|event| matches!(event, MapEvent::Left { .. }));
    let left: Vec<String> = left.map(ToString::to_string).collect();
    assert_eq!(
        left,
        ["map-2 is left out: VM map-2: cannot create: no room"]
    );

    let frail = Frail {
        lasts: 9,
        exit: 0,
        missing: "map-1",
    };
    let (result, _) = in_frail_vms(frail, 8, 1).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "VM map-1: cannot create: no room"
    );
    // One that was to be made for a program that failed does not hide why it failed.
    let frail = Frail {
        lasts: 9,
        exit: 7,
        missing: "map-1.2",
    };
    let (result, _) = in_frail_vms(frail, 8, 1).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "the program on shard 1 failed (tried in map-1): exit code 7: it said nothing"
    );
}
