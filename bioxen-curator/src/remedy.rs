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

fn by_distribution(debian: &str, alpine: &str, rhel: &str) -> String {
    format!("Debian: apt-get install {debian}; Alpine: apk add {alpine}; RHEL: dnf install {rhel}")
}
