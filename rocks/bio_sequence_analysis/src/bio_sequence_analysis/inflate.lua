--- Decompresses DEFLATE (RFC 1951) and gzip (RFC 1952) as a stream, in pure Lua, so that
-- every interpreter has it. The memory is that of the window, whatever the size.
--
-- No operators on bits, which half of the interpreters lack: bits are kept in a number,
-- the first one lowest, never more than 51 of them, so that a double holds them.

local crc32 = require("bio_sequence_analysis.crc32")

local WINDOW = 32768
-- As many values as `unpack` can put on the stack everywhere.
local SLICE = 4096

local unpack = table.unpack or unpack
local byte, char, floor = string.byte, string.char, math.floor

-- Integers where there are some: the remainder of floats is slow there.
local POWER = {}
for exponent = 0, 52 do
  POWER[exponent] = floor(2 ^ exponent)
end

-- Base values and extra bits of lengths (symbols from 257 on) and distances.
local LENGTH_BASE, LENGTH_BITS, DISTANCE_BASE, DISTANCE_BITS = {}, {}, {}, {}
do
  local base = 3
  for code = 0, 27 do
    local bits = code < 8 and 0 or floor(code / 4) - 1
    LENGTH_BASE[257 + code], LENGTH_BITS[257 + code] = base, bits
    base = base + POWER[bits]
  end
  LENGTH_BASE[285], LENGTH_BITS[285] = 258, 0
  base = 1
  for code = 0, 29 do
    local bits = code < 4 and 0 or floor(code / 2) - 1
    DISTANCE_BASE[code], DISTANCE_BITS[code] = base, bits
    base = base + POWER[bits]
  end
end

-- The order in which a block gives the code lengths of its code lengths.
local CODE_ORDER = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 }

-- Symbols, and the lengths of their codes, by as many bits as the longest code has.
local function huffman(lengths, count, refuse)
  local longest, used, of_length = 0, 0, {}
  for length = 0, 15 do
    of_length[length] = 0
  end
  for symbol = 0, count - 1 do
    local length = lengths[symbol] or 0
    of_length[length] = of_length[length] + 1
    if length > longest then
      longest = length
    end
  end
  local code, first = 0, {}
  of_length[0] = 0
  for length = 1, 15 do
    code = (code + of_length[length - 1]) * 2
    first[length] = code
    used = used + of_length[length] * POWER[15 - length]
  end
  if used > 32768 then
    refuse("its Huffman codes are over-subscribed")
  end
  local symbols, sizes = {}, {}
  local size = POWER[longest]
  for symbol = 0, count - 1 do
    local length = lengths[symbol] or 0
    if length > 0 then
      local value = first[length]
      first[length] = value + 1
      -- Codes come with their highest bit first, everything else with the lowest.
      local reversed = 0
      for _ = 1, length do
        local low = value % 2
        reversed = reversed * 2 + low
        value = floor(value / 2)
      end
      for at = reversed, size - 1, POWER[length] do
        symbols[at], sizes[at] = symbol, length
      end
    end
  end
  return { symbols = symbols, lengths = sizes, size = size }
end

local fixed

local function fixed_codes(refuse)
  if not fixed then
    local lengths, distances = {}, {}
    for symbol = 0, 287 do
      lengths[symbol] = symbol < 144 and 8 or symbol < 256 and 9 or symbol < 280 and 7 or 8
    end
    for symbol = 0, 29 do
      distances[symbol] = 5
    end
    fixed = { huffman(lengths, 288, refuse), huffman(distances, 30, refuse) }
  end
  return fixed[1], fixed[2]
end

--- The bits of a stream of blocks of bytes.
local function bit_reader(read_block, refuse)
  local reader = { bits = 0, count = 0 }
  local block, at = "", 1
  local ended = false

  -- One byte more, or false at the end.
  local function next_byte()
    while at > #block do
      block = not ended and read_block() or nil
      if not block then
        ended, block, at = true, "", 1
        return false
      end
      at = 1
    end
    at = at + 1
    return byte(block, at - 1)
  end

  --- Takes bits until there are at least `wanted` (at most 28), or the input ends.
  function reader.fill(wanted)
    local bits, count = reader.bits, reader.count
    while count < wanted do
      if at + 2 <= #block then
        local first, second, third = byte(block, at, at + 2)
        bits = bits + (first + second * 256 + third * 65536) * POWER[count]
        at, count = at + 3, count + 24
      else
        local value = next_byte()
        if not value then
          break
        end
        bits = bits + value * POWER[count]
        count = count + 8
      end
    end
    reader.bits, reader.count = bits, count
  end

  function reader.take(wanted)
    if reader.count < wanted then
      reader.fill(wanted)
      if reader.count < wanted then
        refuse("it ends too early")
      end
    end
    local value = reader.bits % POWER[wanted]
    reader.bits = floor(reader.bits / POWER[wanted])
    reader.count = reader.count - wanted
    return value
  end

  function reader.align()
    reader.take(reader.count % 8)
  end

  --- Whether nothing is left.
  function reader.at_end()
    reader.fill(1)
    return reader.count == 0
  end

  return reader
end

local function symbol_of(reader, code, refuse)
  if reader.count < 15 then
    reader.fill(15)
  end
  local index = reader.bits % code.size
  local length = code.lengths[index]
  if not length then
    refuse("it has a code that its table lacks")
  end
  if length > reader.count then
    refuse("it ends too early")
  end
  reader.bits = floor(reader.bits / POWER[length])
  reader.count = reader.count - length
  return code.symbols[index]
end

local function read_codes(reader, refuse)
  local literals = reader.take(5) + 257
  local distances = reader.take(5) + 1
  local count = reader.take(4) + 4
  if literals > 286 or distances > 30 then
    refuse("it has more codes than there are")
  end
  local lengths = {}
  for at = 1, count do
    lengths[CODE_ORDER[at]] = reader.take(3)
  end
  local code = huffman(lengths, 19, refuse)
  local all, at = {}, 0
  while at < literals + distances do
    local symbol = symbol_of(reader, code, refuse)
    local value, times = symbol, 1
    if symbol == 16 then
      if at == 0 then
        refuse("it repeats a code length before the first")
      end
      value, times = all[at - 1], reader.take(2) + 3
    elseif symbol == 17 then
      value, times = 0, reader.take(3) + 3
    elseif symbol == 18 then
      value, times = 0, reader.take(7) + 11
    end
    for _ = 1, times do
      all[at] = value
      at = at + 1
    end
  end
  if at > literals + distances then
    refuse("its code lengths are too many")
  end
  local far = {}
  for symbol = 0, distances - 1 do
    far[symbol] = all[literals + symbol]
    all[literals + symbol] = nil
  end
  return huffman(all, literals, refuse), huffman(far, distances, refuse)
end

-- Decodes into `out` from `size` on until the block ends or there is a window's worth.
-- @return the new size, and whether the block has ended
local function decode(reader, literal_code, distance_code, out, size, limit, refuse)
  local symbols, lengths, reach = literal_code.symbols, literal_code.lengths, literal_code.size
  local far_symbols, far_lengths, far_reach = distance_code.symbols, distance_code.lengths, distance_code.size
  local fill = reader.fill
  local bits, count = reader.bits, reader.count
  while size < limit do
    if count < 20 then
      reader.bits, reader.count = bits, count
      fill(20)
      bits, count = reader.bits, reader.count
    end
    local index = bits % reach
    local length, symbol = lengths[index], symbols[index]
    if not length then
      refuse("it has a code that its table lacks")
    end
    count = count - length
    bits = floor(bits / POWER[length])
    if symbol < 256 then
      size = size + 1
      out[size] = symbol
    elseif symbol == 256 then
      if count < 0 then
        refuse("it ends too early")
      end
      reader.bits, reader.count = bits, count
      return size, true
    else
      local extra = LENGTH_BITS[symbol]
      if not extra then
        refuse("it has a length that does not exist")
      end
      local run = LENGTH_BASE[symbol] + bits % POWER[extra]
      bits, count = floor(bits / POWER[extra]), count - extra
      if count < 28 then
        reader.bits, reader.count = bits, count
        fill(28)
        bits, count = reader.bits, reader.count
      end
      index = bits % far_reach
      length, symbol = far_lengths[index], far_symbols[index]
      if not length then
        refuse("it has a code that its table lacks")
      end
      bits = floor(bits / POWER[length])
      extra = DISTANCE_BITS[symbol]
      local back = DISTANCE_BASE[symbol] + bits % POWER[extra]
      bits, count = floor(bits / POWER[extra]), count - length - extra
      local from = size - back
      if from < 0 then
        refuse("it refers to data before its beginning")
      end
      for offset = 1, run do
        out[size + offset] = out[from + offset]
      end
      size = size + run
    end
    if count < 0 then
      refuse("it ends too early")
    end
  end
  reader.bits, reader.count = bits, count
  return size, false
end

-- Copies bytes that are not compressed; as `decode`.
local function copy(reader, left, out, size, limit)
  while left > 0 and size < limit do
    size = size + 1
    out[size] = reader.take(8)
    left = left - 1
  end
  return size, left == 0, left
end

--- What blocks of DEFLATE decompress to, in pieces of at least half a window.
-- @return function that gives the next piece, or nil at the end of the stream
local function inflated(reader, refuse)
  local out, size, given = {}, 0, 0
  local kind, stored, literal_code, distance_code
  local last = false

  local function piece()
    local parts = {}
    for from = given + 1, size, SLICE do
      parts[#parts + 1] = char(unpack(out, from, math.min(from + SLICE - 1, size)))
    end
    if size > WINDOW then
      local drop = size - WINDOW
      for at = 1, WINDOW do
        out[at] = out[at + drop]
      end
      size = WINDOW
    end
    given = size
    return table.concat(parts)
  end

  local function open_block()
    last = reader.take(1) == 1
    kind = reader.take(2)
    if kind == 0 then
      reader.align()
      stored = reader.take(16)
      if stored + reader.take(16) ~= 65535 then
        refuse("the length of a block contradicts itself")
      end
    elseif kind == 1 then
      literal_code, distance_code = fixed_codes(refuse)
    elseif kind == 2 then
      literal_code, distance_code = read_codes(reader, refuse)
    else
      refuse("it has a block of a kind that does not exist")
    end
  end

  return function()
    while true do
      if not kind then
        if last then
          return size > given and piece() or nil
        end
        open_block()
      end
      local done
      if kind == 0 then
        size, done, stored = copy(reader, stored, out, size, 2 * WINDOW)
      else
        size, done = decode(reader, literal_code, distance_code, out, size, 2 * WINDOW, refuse)
      end
      if done then
        kind = nil
      end
      if size >= 2 * WINDOW then
        return piece()
      end
    end
  end
end

local function read_head(reader, refuse)
  if reader.take(8) ~= 31 or reader.take(8) ~= 139 then
    refuse("there is something else after its end")
  end
  if reader.take(8) ~= 8 then
    refuse("its method of compression is unknown")
  end
  local flags = reader.take(8)
  for _ = 1, 6 do
    reader.take(8)
  end
  local function has(flag)
    return floor(flags / flag) % 2 == 1
  end
  if has(4) then
    for _ = 1, reader.take(16) do
      reader.take(8)
    end
  end
  for _, flag in ipairs({ 8, 16 }) do -- the name and the comment, which zero ends
    if has(flag) then
      repeat until reader.take(8) == 0
    end
  end
  if has(2) then
    reader.take(16)
  end
end

--- Decompresses gzip, also of several members as bgzip writes them.
-- @param read_block function that gives the next bytes, or nil at the end
-- @param refuse function that raises an error with the reason it is given
-- @return function that gives the next decompressed bytes, or nil at the end
return function(read_block, refuse)
  local reader = bit_reader(read_block, refuse)
  local next_piece, crc, length
  return function()
    while true do
      if not next_piece then
        if crc and reader.at_end() then
          return nil
        end
        read_head(reader, refuse)
        next_piece, crc, length = inflated(reader, refuse), 0, 0
      end
      local text = next_piece()
      if text then
        crc, length = crc32(crc, text), length + #text
        return text
      end
      next_piece = nil
      reader.align()
      if reader.take(16) + reader.take(16) * 65536 ~= crc then
        refuse("its checksum is wrong")
      elseif reader.take(16) + reader.take(16) * 65536 ~= length % 4294967296 then
        refuse("its length is wrong")
      end
    end
  end
end
