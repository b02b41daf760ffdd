//! The commands that install what a machine lacks, by distribution.

/// For LuaRocks and the programs that it calls.
pub(crate) fn program(program: &str) -> String {
    let (debian, alpine, rhel) = match program {
        "luarocks" => ("luarocks", "luarocks5.4", "luarocks"),
        "wget" | "curl" | "wget or curl" => ("wget", "wget", "wget"),
        other => (other, other, other),
    };
    by_distribution(debian, alpine, rhel)
}

/// For the headers of a Lua version and a C compiler.
pub(crate) fn headers(lua_version: &str) -> String {
    by_distribution(
        &format!("liblua{lua_version}-dev gcc"),
        &format!("lua{lua_version}-dev build-base"),
        "lua-devel gcc",
    )
}

/// For an interpreter of a Lua version.
pub(crate) fn interpreter(lua_version: &str) -> String {
    let package = format!("lua{lua_version}");
    by_distribution(&package, &package, "lua")
}

/// For a library that rocks are built with: its name in rockspecs, and the file that is missing.
pub(crate) fn library(name: &str, file: &str) -> String {
    let stem = file
        .rsplit('/')
        .next()
        .unwrap_or(file)
        .trim_end_matches(".h");
    let known = [name, stem]
        .into_iter()
        .find_map(|word| known_library(&word.to_ascii_lowercase()));
    match known {
        Some([debian, alpine, rhel]) => by_distribution(debian, alpine, rhel),
        None => format!(
            "which package has it, `apt-file search {file}`, `apk search` and `dnf provides` tell"
        ),
    }
}

fn known_library(name: &str) -> Option<[&'static str; 3]> {
    Some(match name.trim_start_matches("lib") {
        "zlib" | "z" => ["zlib1g-dev", "zlib-dev", "zlib-devel"],
        "openssl" | "ssl" | "crypto" => ["libssl-dev", "openssl-dev", "openssl-devel"],
        "yaml" => ["libyaml-dev", "yaml-dev", "libyaml-devel"],
        "expat" => ["libexpat1-dev", "expat-dev", "expat-devel"],
        "sqlite3" | "sqlite" => ["libsqlite3-dev", "sqlite-dev", "sqlite-devel"],
        "curl" => ["libcurl4-openssl-dev", "curl-dev", "libcurl-devel"],
        "pcre" => ["libpcre3-dev", "pcre-dev", "pcre-devel"],
        "pcre2" => ["libpcre2-dev", "pcre2-dev", "pcre2-devel"],
        "gmp" => ["libgmp-dev", "gmp-dev", "gmp-devel"],
        "event" => ["libevent-dev", "libevent-dev", "libevent-devel"],
        "ncurses" | "curses" => ["libncurses-dev", "ncurses-dev", "ncurses-devel"],
        "readline" => ["libreadline-dev", "readline-dev", "readline-devel"],
        "ffi" => ["libffi-dev", "libffi-dev", "libffi-devel"],
        "uv" => ["libuv1-dev", "libuv-dev", "libuv-devel"],
        "bz2" | "bzlib" => ["libbz2-dev", "bzip2-dev", "bzip2-devel"],
        "lzma" => ["liblzma-dev", "xz-dev", "xz-devel"],
        "zstd" => ["libzstd-dev", "zstd-dev", "libzstd-devel"],
        _ => return None,
    })
}

fn by_distribution(debian: &str, alpine: &str, rhel: &str) -> String {
    format!("Debian: apt-get install {debian}; Alpine: apk add {alpine}; RHEL: dnf install {rhel}")
}
