-- Prints features as gff3.py does, writes them anew, or writes those of a flat file:
--   gff3.lua show FILE...
--   gff3.lua write FILE OUT
--   gff3.lua convert GENBANK OUT
local bio = require("bio_sequence_analysis")

local function shown(feature)
  local score = feature.score and string.format("%.14g", feature.score) or "."
  print("feature", feature.seqid, feature.source or ".", feature.type, string.format("%d", feature.start),
    string.format("%d", feature.stop), score, feature.strand or ".", feature.phase and string.format("%d", feature.phase) or ".")
  local names = {}
  for name in pairs(feature.attributes) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    for _, value in ipairs(feature.attributes[name]) do
      print("attribute", name, (value:gsub("\t", "<tab>"):gsub("\n", "<line>")))
    end
  end
end

-- A line for each part of a feature, with all qualifiers as attributes.
local function converted(path)
  local features = {}
  for record in bio.genbank(path) do
    for number, feature in ipairs(record.features) do
      local attributes = { ID = { feature.type .. number } }
      for _, qualifier in ipairs(feature.qualifiers) do
        local values = attributes[qualifier.name] or {}
        attributes[qualifier.name] = values
        values[#values + 1] = qualifier.value == true and "true" or qualifier.value
      end
      for _, part in ipairs(feature.parts) do
        features[#features + 1] = {
          seqid = record.id, source = "GenBank", type = feature.type, start = part.start, stop = part.stop,
          strand = part.strand, phase = feature.type == "CDS" and 0 or nil, attributes = attributes,
        }
      end
    end
  end
  return features
end

local what = table.remove(arg, 1)
if what == "show" then
  for _, path in ipairs(arg) do
    for feature in bio.gff3(path) do
      shown(feature)
    end
  end
elseif what == "write" then
  bio.write_gff3(arg[2], bio.gff3(arg[1]))
else
  bio.write_gff3(arg[2], converted(arg[1]))
end
