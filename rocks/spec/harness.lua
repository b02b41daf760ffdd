--- A few lines of test harness, so that the specs need nothing but Lua.

local harness = { failures = 0, passed = 0 }

local function shown(value)
  if type(value) == "number" then
    return string.format("%.14g", value) -- 1 and 1.0 are equal, whatever the interpreter
  end
  if type(value) ~= "table" then
    return type(value) == "string" and string.format("%q", value) or tostring(value)
  end
  local keys, fields = {}, {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(left, right)
    return tostring(left) < tostring(right)
  end)
  for _, key in ipairs(keys) do
    fields[#fields + 1] = tostring(key) .. " = " .. shown(value[key])
  end
  return "{" .. table.concat(fields, ", ") .. "}"
end

--- Demands equal values; tables are compared by content.
function harness.equal(actual, expected)
  actual, expected = shown(actual), shown(expected)
  if actual ~= expected then
    error(string.format("expected %s\n         got %s", expected, actual), 2)
  end
end

--- Demands that a call fails with exactly this message.
function harness.fails_with(message, call, ...)
  local ok, actual = pcall(call, ...)
  if ok then
    error("expected an error: " .. message, 2)
  elseif actual ~= message then
    error(string.format("expected the error %q\n         got %q", message, tostring(actual)), 2)
  end
end

--- Runs one test.
function harness.test(name, body)
  local ok, problem = pcall(body)
  if ok then
    harness.passed = harness.passed + 1
  else
    harness.failures = harness.failures + 1
    io.stderr:write("FAILED ", name, ": ", tostring(problem), "\n")
  end
end

--- Prints the result and ends the process, with status 1 after a failure.
function harness.finish()
  print(string.format("%s: %d passed, %d failed", _VERSION, harness.passed, harness.failures))
  os.exit(harness.failures == 0 and 0 or 1)
end

return harness
