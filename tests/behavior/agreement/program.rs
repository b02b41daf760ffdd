//! Programs that every Lua from 5.1 on takes, and runs in the same way to its end.
//!
//! So they have no fractions and no negative zero, which print differently; no zero bytes, where 5.1
//! ends its strings; no words of a Lua about an error of its own. Their loops are short, and what a
//! loop lets grow is cut.

use proptest::char::range;
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any as anything, prop_oneof};
use proptest::sample::select;

/// What each begins with to write.
pub(super) const BEGUN: &str = "begun;";

/// A program.
pub(super) fn any() -> impl Strategy<Value = Vec<u8>> {
    (block(), end()).prop_map(|(block, end)| {
        let text = format!(
            "io.write('{BEGUN}')\n\
             local n0, n1, i, s0, s1, t = 1, 20, 0, 'a', '', {{3, 1, 2}}\n\
             {block}\n{end}\n"
        );
        // Each character stands for a byte.
        text.chars()
            .map(|byte| u8::try_from(byte).unwrap())
            .collect()
    })
}

/// Statements.
fn block() -> BoxedStrategy<String> {
    let statement = statement().prop_recursive(3, 12, 4, |inner| {
        let block = vec(inner, 1..4).prop_map(|lines| lines.join("\n"));
        prop_oneof![
            (condition(), block.clone(), block.clone()).prop_map(|(condition, yes, no)| format!(
                "if {condition} then\n{yes}\nelse\n{no}\nend"
            )),
            (2..4, condition(), block.clone()).prop_map(|(most, condition, block)| format!(
                "for i = 1, {most} do\n{block}\nif {condition} then break end\nend"
            )),
            block.clone().prop_map(|block| format!(
                "for _, s1 in ipairs({{'x', s0, 'y'}}) do\n{block}\nend"
            )),
            block.clone().prop_map(|block| format!(
                "do local k = 0 while k < 2 do k = k + 1\n{block}\nend end"
            )),
            block.clone().prop_map(|block| format!(
                "do local k = 3 repeat local last = k < 3 k = k - 1\n{block}\nuntil last end"
            )),
            (block.clone(), text(), 0..2).prop_map(|(block, text, level)| format!(
                "do local ok, e = pcall(function()\n{block}\nerror({text}, {level}) end)\n\
                 io.write(tostring(ok), '=', tostring(e), ';') end"
            )),
            (block, number()).prop_map(|(block, number)| format!(
                "do local ok, e = pcall(function()\n{block}\nerror({{code = {number}}}) end)\n\
                 io.write(tostring(ok), '=', e.code, ';') end"
            )),
        ]
    });
    let statements = vec(statement, 1..8);
    statements.prop_map(|lines| lines.join("\n")).boxed()
}

fn statement() -> impl Strategy<Value = String> {
    prop_oneof![
        (select(&["n0", "n1"]), number())
            .prop_map(|(name, number)| format!("{name} = ({number}) % 997")),
        (select(&["s0", "s1"]), text())
            .prop_map(|(name, text)| format!("{name} = ({text}):sub(1, 40)")),
        text().prop_map(|text| format!("io.write({text}, ';')")),
        number().prop_map(|number| format!("io.write({number}, ';')")),
        (condition(), number(), text())
            .prop_map(|(condition, number, text)| format!("print({condition}, {number}, {text})")),
        number().prop_map(|number| format!("t[#t + 1] = {number}")),
        Just("table.remove(t, 1)".to_owned()),
        select(&["", ", function(a, b) return a > b end"])
            .prop_map(|by| format!("table.sort(t{by})")),
        literal().prop_map(|text| format!("io.write(table.concat(t, {text}), ';')")),
        // What goes wrong in a Lua itself it tells in its own words.
        select(&[
            "({}).x.y",
            "{} + 1",
            "#nil",
            "nil .. ''",
            "({})()",
            "1 < 'x'"
        ])
        .prop_map(|wrong| format!(
            "do local ok, e = pcall(function() return {wrong} end) print(ok, type(e)) end"
        )),
        text().prop_map(|text| format!(
            "print(xpcall(function() error({text}, 0) end, function(e) return e .. '!' end))"
        )),
        (number(), number()).prop_map(|(one, other)| format!(
            "do local function f(a, ...) return select('#', ...), a, ... end print(f({one}, {other})) end"
        )),
        number().prop_map(|number| format!(
            "do local c = 0 local function up() c = c + {number} return c end up() print(up()) end"
        )),
        number().prop_map(|number| format!(
            "for v in coroutine.wrap(function() for i = 1, 3 do coroutine.yield({number}) end end) \
             do io.write(v, ',') end"
        )),
        text().prop_map(|text| format!(
            "print(setmetatable({{}}, {{__index = function(_, key) return key .. '?' end}})[{text}])"
        )),
    ]
}

/// Whole numbers whose text is the same in every Lua.
fn number() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        (0..100_u8).prop_map(|number| number.to_string()),
        select(&["n0", "n1", "i", "#t", "#s0", "0x1f", "math.floor(1e2 % 7)"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), select(&["+", "-"]), inner.clone())
                .prop_map(|(one, sign, other)| format!("({one} {sign} {other})")),
            (inner.clone(), inner.clone())
                .prop_map(|(one, other)| format!("({one} * {other} % 997)")),
            (inner.clone(), inner.clone())
                .prop_map(|(one, other)| format!("math.max({one}, {other})")),
            inner
                .clone()
                .prop_map(|number| format!("math.floor({number} / 2)")),
            literal().prop_map(|text| format!("#{text}")),
            (literal(), 1..4).prop_map(|(text, at)| format!("(({text}):byte({at}) or 0)")),
            (literal(), literal())
                .prop_map(|(text, part)| format!("(({text}):find({part}, 1, true) or 0)")),
            (inner, condition_of_leaves())
                .prop_map(|(number, condition)| format!("({condition} and {number} or 7)")),
        ]
    })
    .boxed()
}

fn text() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        2 => literal(),
        1 => select(&["s0", "s1"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} .. {other})")),
            inner.clone().prop_map(|text| format!("({text}):upper()")),
            inner.clone().prop_map(|text| format!("({text}):reverse()")),
            (inner.clone(), 0..4).prop_map(|(text, times)| format!("({text}):rep({times})")),
            (inner.clone(), -5..5, -5..5)
                .prop_map(|(text, from, to)| format!("({text}):sub({from}, {to})")),
            inner
                .clone()
                .prop_map(|text| format!("(({text}):gsub('%w', '<%0>'))")),
            (inner.clone(), number()).prop_map(|(text, number)| format!(
                "string.format('%d|%5.2f|%-5s|%%', {number}, {number}, {text})"
            )),
            (number(), inner).prop_map(|(number, text)| format!(
                "string.format('%x|%c|%s', ({number}) % 997, 65 + ({number}) % 26, {text})"
            )),
            number().prop_map(|number| format!("tostring({number})")),
            condition_of_leaves().prop_map(|condition| format!("tostring({condition})")),
        ]
    })
    .boxed()
}

/// A string in quotes or long brackets.
fn literal() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => range(' ', '~').prop_filter("needs an escape", |c| !"\"'\\".contains(*c))
            .prop_map(String::from),
        2 => range('\u{80}', '\u{ff}').prop_map(String::from),
        2 => select(&["\\n", "\\t", "\\r", "\\a", "\\b", "\\f", "\\v", "\\\\", "\\\"", "\\'", "\\\n"])
            .prop_map(str::to_owned),
        2 => (1_u8..).prop_map(|byte| format!("\\{byte:03}")),
    ];
    let quoted = (vec(piece, 0..8), anything::<bool>()).prop_map(|(pieces, double)| {
        let quote = if double { '"' } else { '\'' };
        format!("{quote}{}{quote}", pieces.concat())
    });
    let long = "[ -\\\\^-~\u{80}-\u{ff}\n]{0,12}".prop_map(|text| format!("[==[{text}]==]"));
    prop_oneof![3 => quoted, 1 => long]
}

fn condition() -> impl Strategy<Value = String> {
    prop_oneof![
        condition_of_leaves(),
        (number(), compared(), number())
            .prop_map(|(one, sign, other)| format!("({one} {sign} {other})")),
        (text(), compared(), text())
            .prop_map(|(one, sign, other)| format!("({one} {sign} {other})")),
        (
            condition_of_leaves(),
            select(&["and", "or"]),
            condition_of_leaves()
        )
            .prop_map(|(one, word, other)| format!("({one} {word} not {other})")),
    ]
}

fn condition_of_leaves() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&["true", "false", "n0 < n1", "s0 == s1", "#t > 3", "i == 2"])
            .prop_map(|text| format!("({text})")),
        (literal(), compared(), literal())
            .prop_map(|(one, sign, other)| format!("({one} {sign} {other})")),
    ]
}

fn compared() -> impl Strategy<Value = &'static str> {
    select(&["==", "~=", "<", "<=", ">", ">="])
}

/// How it ends.
fn end() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        (number(), text())
            .prop_map(|(number, text)| format!("return {number}, {text}, {{t, s0}}, nil, true")),
        (0..256).prop_map(|code| format!("os.exit({code})")),
        text().prop_map(|text| format!("error({text})")),
    ]
}
