--- The checksum of gzip: CRC-32 as in RFC 1952, with whatever the interpreter has for
-- bits: operators (5.3 and later), `bit` (LuaJIT), `bit32` (5.2), or tables (5.1).

local WORD = 4294967296

local function table_of(exclusive_or)
  local entries = {}
  for byte = 0, 255 do
    local value = byte
    for _ = 1, 8 do
      local low = value % 2
      value = (value - low) / 2
      if low == 1 then
        value = exclusive_or(value, 0xEDB88320) % WORD
      end
    end
    entries[byte] = value
  end
  return entries
end

-- The operators do not compile on older interpreters, hence the string.
local WITH_OPERATORS = [[
  local table_of = ...
  local entries = table_of(function(left, right) return math.tointeger(left) ~ right end)
  for byte = 0, 255 do entries[byte] = math.tointeger(entries[byte]) end
  local byte_of = string.byte
  return function(crc, text)
    crc = crc ~ 0xFFFFFFFF
    for at = 1, #text do
      crc = (crc >> 8) ~ entries[(crc ~ byte_of(text, at)) & 255]
    end
    return crc ~ 0xFFFFFFFF
  end
]]

local function with_library(bits)
  local bxor, band, rshift = bits.bxor, bits.band, bits.rshift
  local entries = table_of(bxor)
  local byte_of = string.byte
  return function(crc, text)
    crc = bxor(crc, 0xFFFFFFFF)
    for at = 1, #text do
      crc = bxor(rshift(crc, 8), entries[band(bxor(crc, byte_of(text, at)), 255)])
    end
    return bxor(crc, 0xFFFFFFFF) % WORD
  end
end

-- The exclusive or of two bytes by one look-up; a checksum is kept as four bytes.
local function with_tables()
  local xor = {}
  for left = 0, 255 do
    for right = 0, 255 do
      local a, b, value, weight = left, right, 0, 1
      while a + b > 0 do
        local low_a, low_b = a % 2, b % 2
        if low_a ~= low_b then
          value = value + weight
        end
        a, b, weight = (a - low_a) / 2, (b - low_b) / 2, weight * 2
      end
      xor[left * 256 + right] = value
    end
  end
  local function bytes_of(word)
    local bytes = {}
    for place = 1, 4 do
      bytes[place] = word % 256
      word = (word - bytes[place]) / 256
    end
    return bytes[1], bytes[2], bytes[3], bytes[4]
  end
  local first, second, third, fourth = {}, {}, {}, {}
  local entries = table_of(function(left, right)
    local a, b, c, d = bytes_of(left)
    local e, f, g, h = bytes_of(right)
    return xor[a * 256 + e] + xor[b * 256 + f] * 256 + xor[c * 256 + g] * 65536 + xor[d * 256 + h] * 16777216
  end)
  for byte = 0, 255 do
    first[byte], second[byte], third[byte], fourth[byte] = bytes_of(entries[byte])
  end
  local byte_of = string.byte
  return function(crc, text)
    local a, b, c, d = bytes_of(WORD - 1 - crc)
    for at = 1, #text do
      local index = xor[a * 256 + byte_of(text, at)]
      a = xor[b * 256 + first[index]]
      b = xor[c * 256 + second[index]]
      c = xor[d * 256 + third[index]]
      d = fourth[index]
    end
    return WORD - 1 - (a + b * 256 + c * 65536 + d * 16777216)
  end
end

local function best()
  local compiled = (loadstring or load)(WITH_OPERATORS)
  if compiled and math.tointeger then
    return compiled(table_of)
  end
  for _, name in ipairs({ "bit", "bit32" }) do
    local found, library = pcall(require, name)
    if found then
      return with_library(library)
    end
  end
  return with_tables()
end

local chosen

--- Goes on with a checksum.
-- @param crc the checksum so far, 0 at the start
-- @param text the bytes that follow
-- @return the checksum of all
return function(crc, text)
  chosen = chosen or best()
  return chosen(crc, text)
end
