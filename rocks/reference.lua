-- Writes docs/rocks.md, the page of every public function, from the comments in the sources:
--   lua5.4 rocks/reference.lua [--check]
-- With --check it writes nothing, and fails when the page is not what the comments give, or when
-- a public function has no comment.
local here = arg[0]:match("^(.*[/\\])") or "./"
package.path = here .. "bio_compute/src/?.lua;" .. here .. "bio_sequence_analysis/src/?.lua;" .. package.path

-- The modules with public functions, in the order of the page.
local ROCKS = {
  {
    name = "bio_compute",
    title = "of one sequence or two",
    modules = {
      { "", "Sequences" }, { "composition", "Composition" }, { "weight", "Molecular weight" },
      { "melting", "Melting temperature" }, { "motifs", "Motifs and restriction sites" }, { "kmers", "k-mers" },
      { "align", "Alignment" }, { "placement", "Placing reads" },
    },
  },
  {
    name = "bio_sequence_analysis",
    title = "of files",
    modules = {
      { "fasta", "FASTA" }, { "fastq", "FASTQ" }, { "flatfile", "GenBank and EMBL" }, { "features", "Features" },
      { "gff3", "GFF3" }, { "quality", "Quality control" }, { "trim", "Trimming and filtering" },
      { "pileup", "Coverage and variants" }, { "sam", "SAM" }, { "summary", "Summaries" },
    },
  },
}

-- The words of comment lines, as paragraphs and lists of Markdown.
local function rendered(lines)
  local text, arguments, results = {}, {}, {}
  local target = text
  for _, line in ipairs(lines) do
    local name, rest = line:match("^@param (%S+) (.*)$")
    -- Several parameters that share a description stand with commas.
    while name and name:sub(-1) == "," do
      local next_name, next_rest = rest:match("^(%S+) (.*)$")
      name, rest = name .. " " .. next_name, next_rest
    end
    local result = line:match("^@return (.*)$")
    if name then
      target = arguments
      target[#target + 1] = "- `" .. name:gsub(", ", "`, `") .. "`: " .. rest
    elseif result then
      target = results
      target[#target + 1] = "Result: " .. result
    else
      target[#target + 1] = target == arguments and "  " .. line:match("^%s*(.*)$") or line:match("^%s?%s?(.*)$")
    end
  end
  local parts = { table.concat(text, "\n") }
  if #arguments > 0 then
    parts[#parts + 1] = table.concat(arguments, "\n")
  end
  if #results > 0 then
    parts[#parts + 1] = table.concat(results, "\n")
  end
  return (table.concat(parts, "\n\n"):gsub("\n\n\n+", "\n\n"))
end

-- The commented functions of a source file, and its own comment.
local function comments_of(path)
  local head, functions, block = nil, {}, nil
  for line in io.lines(path) do
    local first = line:match("^%-%-%- ?(.*)$")
    local more = line:match("^%-%- ?(.*)$")
    if first then
      block = { first }
    elseif more and block then
      block[#block + 1] = more
    else
      if block then
        local owner, separator, name, parameters = line:match("^function ([%w_]+)([%.:])([%w_]+)(%b())")
        if owner then
          functions[#functions + 1] = { owner = owner, method = separator == ":", name = name, parameters = parameters, lines = block }
        elseif not head then
          head = block
        end
      end
      block = nil
    end
  end
  return head, functions
end

local page = {
  "# The functions of the Lua rocks",
  "Made from the comments in the sources by `lua5.4 rocks/reference.lua`; change those, not this page.",
  "Positions are 1-based and inclusive, lengths are letters, unless a function says otherwise. Misuse and bad\n"
    .. "data raise an `error` of one line that names the function or the file, the reason and the remedy.",
}
local missing = {}

for _, rock in ipairs(ROCKS) do
  local public = require(rock.name)
  local described = {}
  page[#page + 1] = string.format("## `%s`: %s", rock.name, rock.title)
  for _, entry in ipairs(rock.modules) do
    local module, title = entry[1], entry[2]
    local path = here .. rock.name .. "/src/" .. rock.name .. (module ~= "" and "/" .. module or "") .. ".lua"
    local head, functions = comments_of(path)
    page[#page + 1] = "### " .. title
    page[#page + 1] = rendered(head)
    for _, found in ipairs(functions) do
      local is_public = found.method or type(public[found.name]) == "function"
      if is_public then
        described[found.name] = not found.method or described[found.name]
        local owner = found.method and found.owner .. ":" or rock.name .. "."
        page[#page + 1] = string.format("#### `%s%s%s`", owner, found.name, found.parameters)
        page[#page + 1] = rendered(found.lines)
      end
    end
  end
  for name, value in pairs(public) do
    -- What the other rock describes is only passed on.
    local elsewhere = rock.name == "bio_sequence_analysis" and value == require("bio_compute")[name]
    if type(value) == "function" and not described[name] and not elsewhere then
      missing[#missing + 1] = rock.name .. "." .. name
    end
  end
end

if #missing > 0 then
  table.sort(missing)
  io.stderr:write("no comment: ", table.concat(missing, ", "), "\n")
  os.exit(1)
end
local text = table.concat(page, "\n\n") .. "\n"
local target = here .. "../docs/rocks.md"
if arg[1] == "--check" then
  local handle = io.open(target, "rb")
  if not handle or handle:read("*a") ~= text then
    io.stderr:write("docs/rocks.md is not what the comments give: lua5.4 rocks/reference.lua\n")
    os.exit(1)
  end
  handle:close()
else
  local handle = assert(io.open(target, "wb"))
  handle:write(text)
  handle:close()
end
