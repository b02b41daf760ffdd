-- Prints records as annotations.py does, or writes them anew:
--   annotations.lua show genbank|embl FILE...
--   annotations.lua write genbank|embl genbank|embl FILE OUT
local bio = require("bio_sequence_analysis")

local function shown(record)
  print("record", record.id, #record.sequence, record.description)
  for _, feature in ipairs(record.features) do
    local parts = {}
    for index, part in ipairs(feature.parts) do
      parts[index] = string.format("%d-%d%s", part.start, part.stop, part.strand)
    end
    print("feature", feature.type, table.concat(parts, ","), bio.feature_sequence(record, feature) or "elsewhere")
    -- Biopython gathers qualifiers by their names.
    local names, values = {}, {}
    for _, qualifier in ipairs(feature.qualifiers) do
      if not values[qualifier.name] then
        names[#names + 1] = qualifier.name
        values[qualifier.name] = {}
      end
      table.insert(values[qualifier.name], qualifier.value == true and "" or qualifier.value)
    end
    for _, name in ipairs(names) do
      for _, value in ipairs(values[name]) do
        print("qualifier", name, value)
      end
    end
  end
end

local what = table.remove(arg, 1)
if what == "show" then
  for index = 2, #arg do
    for record in bio[arg[1]](arg[index]) do
      shown(record)
    end
  end
else
  bio["write_" .. arg[2]](arg[4], bio[arg[1]](arg[3]))
end
