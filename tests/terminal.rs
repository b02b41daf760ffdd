//! What a person sees in a real terminal: the screen that tmux draws.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xapi_sim::guest::PORT;
use xapi_sim::{GuestMode, Model, SimOptions};

use support::{PASSWORD, Pool};

mod support;

/// A terminal with a shell in it, in a folder of its own. All of it goes with it.
struct Terminal {
    home: TempDir,
}

impl Terminal {
    fn open() -> Self {
        Self::of_columns(100)
    }

    fn of_columns(columns: u16) -> Self {
        let terminal = Self {
            home: tempfile::tempdir().unwrap(),
        };
        let size = ["-x", &columns.to_string(), "-y", "30"];
        let bin = env!("CARGO_BIN_EXE_bioxen");
        let folder = std::path::Path::new(bin).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut tmux = terminal.tmux(&["-f", "/dev/null", "new-session", "-d"]);
        tmux.args(size).arg("sh");
        tmux.env("PATH", path);
        assert!(tmux.status().unwrap().success());
        // In two parts, so that the line itself is not taken for the prompt.
        terminal.types("PS1='rea''dy> '; clear");
        terminal.shows("ready>");
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(self.home.path().join("tmux"))
            .args(args);
        // One that runs this test is another.
        command.env_remove("TMUX").env("TERM", "xterm-256color");
        command
            .env("XDG_STATE_HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path());
        command.env_remove("NO_COLOR").current_dir(&self.home);
        command
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text).unwrap();
    }

    /// Types a line, and Enter.
    fn types(&self, line: &str) {
        self.keys(line);
        self.presses("Enter");
    }

    /// Types some letters.
    fn keys(&self, letters: &str) {
        let mut typed = self.tmux(&["send-keys", "-l", letters]);
        assert!(typed.status().unwrap().success());
    }

    /// Presses a key, `C-c` for example.
    fn presses(&self, key: &str) {
        assert!(self.tmux(&["send-keys", key]).status().unwrap().success());
    }

    fn screen(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the screen has all of a text.
    #[allow(
        clippy::disallowed_methods,
        reason = "tmux tells nobody that a screen has changed"
    )]
    fn shows(&self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no {text:?} on the screen:\n{screen}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).status();
    }
}

#[test]
fn a_run_over_records_shows_a_bar_and_ctrl_c_ends_it_in_order() {
    let terminal = Terminal::open();
    let records: String = (1..=4).map(|n| format!(">r{n}\nACGT\n")).collect();
    terminal.file("reads.fa", &records);
    // The first shard is done at once, the others never.
    terminal.file(
        "first.lua",
        "local shard = ... if tonumber(shard) > 1 then while true do end end",
    );
    terminal.types(
        "bioxen map --by fasta --shards 4 --vms 2 --out kept first.lua reads.fa; echo code $?",
    );
    let screen = terminal.shows("1 of 4 shards");
    assert!(screen.contains("[########----"), "{screen}");
    terminal.presses("C-c");
    let screen = terminal.shows("code 130");
    assert!(
        screen.contains("what is done stays in kept; --resume goes on there"),
        "{screen}"
    );
    // Nothing is drawn over anything else.
    let last = screen.trim_end().lines().rev().take(3).collect::<Vec<_>>();
    assert!(last.contains(&"code 130"), "{screen}");
}

#[test]
fn the_bar_of_a_run_stays_in_one_row_of_a_narrow_terminal() {
    let terminal = Terminal::of_columns(40);
    let records: String = (1..=4).map(|n| format!(">r{n}\nACGT\n")).collect();
    terminal.file("reads.fa", &records);
    terminal.file(
        "first.lua",
        "local shard = ... if tonumber(shard) > 1 then while true do end end",
    );
    terminal.types(
        "clear; bioxen map --by fasta --shards 4 --vms 2 --out kept first.lua reads.fa; echo code $?",
    );
    terminal.shows("\n[##--------] 1 of 4 shards, 2 running\n");
    terminal.presses("C-c");
    let screen = terminal.shows("code 130");
    assert!(!screen.contains("[##"), "{screen}");
}

#[test]
fn the_shell_edits_lines_recalls_them_and_keeps_its_variables_over_ctrl_c() {
    let terminal = Terminal::open();
    terminal.types("bioxen shell; echo code $?");
    terminal.shows("> ");
    terminal.types("x = 20");
    terminal.types("x + 1");
    terminal.shows("\n21");
    terminal.types("io.write('endless') io.flush() while true do x = x end");
    terminal.shows("\nendless");
    terminal.presses("C-c");
    terminal.types("x + 2");
    terminal.shows("\n22");
    // Up to `x + 2`, and one letter more in place of the last.
    for key in ["Up", "BSpace", "3", "Enter"] {
        terminal.presses(key);
    }
    terminal.shows("\n23");
    terminal.presses("C-d");
    terminal.shows("code 0");
}

#[test]
fn the_log_has_colours_in_a_terminal_and_none_with_no_color() {
    let terminal = Terminal::open();
    terminal.file(
        "pool.toml",
        "[xcpng]\nxcpng_host = '127.0.0.1:9'\npassword = 'x'\ntemplate = 'x'\ntls.insecure = true\n",
    );
    let run = "bioxen -v -c pool.toml run -t xcpng -e 'print(1)'";
    for (set, coloured) in [("", true), ("NO_COLOR=1 ", false)] {
        terminal.types(&format!("clear; {set}{run}; echo coloured {coloured}"));
        terminal.shows(&format!("\ncoloured {coloured}"));
        let output = terminal
            .tmux(&["capture-pane", "-p", "-e"])
            .output()
            .unwrap();
        let screen = String::from_utf8(output.stdout).unwrap();
        assert!(screen.contains("INFO"), "{screen}");
        assert_eq!(screen.contains('\u{1b}'), coloured, "{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_says_what_it_waits_for_in_a_line_that_goes_again() {
    let pool = Pool::of(Model::single_host(), SimOptions::default()).await;
    let terminal = Terminal::open();
    let settings = format!(
        "[xcpng]\nxcpng_host = '{}'\npassword = '{PASSWORD}'\ntemplate = 'lua-bio-template'\n\
         boot_timeout = '5s'\nssh.port = {}\ntls.fingerprint = '{}'\n",
        pool.server.address(),
        PORT + 1,
        pool.server.fingerprint().unwrap()
    );
    terminal.file("pool.toml", &settings);
    terminal.types("bioxen -c pool.toml doctor; echo code $?");
    let screen = terminal.shows("ssh: waiting for a login over SSH (1 s)");
    assert!(screen.contains("good     guest-tools: "), "{screen}");
    let screen = terminal.shows("code 1");
    assert!(screen.contains("failed   ssh: "), "{screen}");
    assert!(!screen.contains("waiting for a login"), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_trusted_when_its_user_says_so() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let pool = Pool::of(Model::single_host(), options).await;
    let terminal = Terminal::open();
    terminal.file("secret", PASSWORD);
    let host = pool.server.address();
    let init = format!(
        "bioxen -c pool.toml config init --no-test --host {host} --username root --template x \
         --ssh-user root --ssh-port 22 --password-file secret; echo code $?"
    );
    for (answer, code, said) in [
        ("no", "code 125", "is not trusted; nothing was written"),
        ("yes", "code 0", "wrote [xcpng] to pool.toml"),
    ] {
        terminal.types(&format!("clear; {init}"));
        terminal.shows("are they the same? (yes or no)");
        terminal.types(answer);
        let screen = terminal.shows(code);
        assert!(screen.replace('\n', "").contains(said), "{screen}");
        assert_eq!(
            terminal.home.path().join("pool.toml").exists(),
            answer == "yes"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_a_question_ends_at_once_and_leaves_the_terminal_as_it_was() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let pool = Pool::of(Model::single_host(), options).await;
    let terminal = Terminal::open();
    let (host, pin) = (pool.server.address(), pool.server.fingerprint().unwrap());
    let init = format!("bioxen -c pool.toml config init --host {host} --fingerprint {pin}");
    for (given, question) in [
        ("", "user of the pool"),
        (
            " --username root --template x --ssh-user root --ssh-port 22",
            "password of root:",
        ),
    ] {
        terminal.types(&format!("clear; {init}{given}; echo code $?"));
        terminal.shows(question);
        terminal.keys("hid''den");
        terminal.presses("C-c");
        let screen = terminal.shows("code 130");
        assert!(
            screen.contains("interrupted; nothing was written"),
            "{screen}"
        );
        // What is typed is seen again, and not only what comes of it.
        terminal.types("echo vis''ible");
        terminal.shows("\nvisible");
        let screen = terminal.screen();
        assert!(screen.contains("echo vis''ible"), "{screen}");
        assert!(!terminal.home.path().join("pool.toml").exists());
    }
    assert!(!terminal.screen().contains("hid''den"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_lets_nobody_in_is_written_only_when_its_user_says_so() {
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let pool = Pool::of(Model::single_host(), options).await;
    let terminal = Terminal::open();
    let (host, pin) = (pool.server.address(), pool.server.fingerprint().unwrap());
    let file = terminal.home.path().join("pool.toml");
    let init = format!(
        "bioxen -c pool.toml config init --fingerprint {pin} --username root --template x --host"
    );
    // Nobody is asked for the password of a host that is not there.
    terminal.types(&format!("clear; {init} 127.0.0.1:9; echo code $?"));
    let screen = terminal.shows("code 125");
    assert!(!screen.contains("password of"), "{screen}");
    for (answer, code) in [("no", "code 1"), ("yes", "code 0")] {
        terminal.types(&format!("clear; {init} {host}; echo code $?"));
        terminal.shows("user in the VMs [root]:");
        terminal.types("bio");
        terminal.shows("port of their SSH server [22]:");
        terminal.types("2222");
        terminal.shows("password of root:");
        terminal.types("wrong");
        let screen = terminal.shows("write it all the same? (yes or no)");
        assert!(screen.contains("failed   login"), "{screen}");
        assert!(!screen.contains("wrong\n"), "{screen}");
        terminal.types(answer);
        terminal.shows(code);
        assert_eq!(file.exists(), answer == "yes");
        assert_eq!(file.with_extension("password").exists(), answer == "yes");
    }
    let written = fs::read_to_string(&file).unwrap();
    let ssh = "ssh = { user = \"bio\", port = 2222 }";
    assert!(written.contains(ssh), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_a_pool_and_a_copy_say_how_far_they_are_in_a_line_that_goes_again() {
    let pool = Pool::of(Model::single_host(), SimOptions::default()).await;
    let terminal = Terminal::open();
    let settings = format!(
        "[xcpng]\nxcpng_host = '{}'\npassword = '{PASSWORD}'\ntemplate = 'lua-bio-template'\n\
         ssh.user = '{}'\nssh.port = {PORT}\ntls.fingerprint = '{}'\n",
        pool.server.address(),
        pool.sim.guest_user().unwrap(),
        pool.server.fingerprint().unwrap()
    );
    terminal.file("pool.toml", &settings);
    terminal.types(
        "clear; bioxen -c pool.toml run -t xcpng -p bio_compute --server bioxen \
         -e 'io.write(\"do\", \"ne\")'; echo \" code $?\"",
    );
    terminal.shows("VM run: ");
    terminal.shows("installing bio_compute");
    // What the program writes stands where the line was.
    let screen = terminal.shows("\ndone code 0");
    assert!(!screen.contains("VM run: "), "{screen}");
    assert!(!screen.contains("installing"), "{screen}");

    // What is told meanwhile has rows of its own.
    terminal.types("clear; bioxen -v -c pool.toml create lab; echo made $?");
    let screen = terminal.shows("made 0");
    let told: Vec<_> = screen
        .lines()
        .filter(|row| row.contains(" INFO "))
        .collect();
    assert!(told.iter().all(|row| row.starts_with("20")), "{screen}");
    assert!(told.len() > 2, "{screen}");
    let big = terminal.home.path().join("big.fa");
    fs::File::create(big).unwrap().set_len(96 << 20).unwrap();
    terminal.types("clear; bioxen -c pool.toml cp big.fa lab:; echo copied $?");
    terminal.shows("big.fa: looking at what is there");
    terminal.shows(" of 96.0 MiB");
    let screen = terminal.shows("copied 0");
    assert!(!screen.contains("MiB"), "{screen}");

    // What a program has left unfinished is not taken away with the line of the copy after it.
    terminal.types(
        "chmod 600 pool.toml; clear; bioxen -c pool.toml exec lab --get big.fa:back.fa \
         -e 'io.write(\"result: \", 42)'; echo got $?",
    );
    let screen = terminal.shows("got 0");
    assert_eq!(screen.trim_end(), "result: 42\ngot 0\nready>");

    // Nor does the line flood a narrow terminal; of a long name it shows the begin and the end.
    let name = "what_lives_in_the_pond_behind_the_house.fa";
    fs::rename(
        terminal.home.path().join("back.fa"),
        terminal.home.path().join(name),
    )
    .unwrap();
    let narrower = terminal
        .tmux(&["resize-window", "-x", "40", "-y", "30"])
        .status();
    assert!(narrower.unwrap().success());
    terminal.types(&format!(
        "clear; bioxen -c pool.toml cp {name} lab:; echo copied $?"
    ));
    let screen = terminal.shows(" of 96.0 MiB");
    let row = screen.lines().find(|row| row.contains(" of 96.0")).unwrap();
    assert!(row.starts_with("what_"), "{screen}");
    assert!(row.contains(".fa: "), "{screen}");
    let screen = terminal.shows("copied 0");
    assert_eq!(screen.trim_end(), "copied 0\nready>");
    pool.server.shutdown().await;
    pool.sim.shutdown().await;
}
