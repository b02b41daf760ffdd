-- Prints every genetic code in the layout of the NCBI: number, letters, starts, stops.
local genetic_code = require("bio_compute.genetic_code")

for _, id in ipairs(genetic_code.ids()) do
  local code = genetic_code.get(id)
  local letters, starts, stops = {}, {}, {}
  for first in ("TCAG"):gmatch(".") do
    for second in ("TCAG"):gmatch(".") do
      for third in ("TCAG"):gmatch(".") do
        local codon = first .. second .. third
        letters[#letters + 1] = code.amino_acid_of[codon]
        starts[#starts + 1] = code.is_start[codon] and "M" or "-"
        stops[#stops + 1] = code.is_stop[codon] and "*" or "-"
      end
    end
  end
  print(id, table.concat(letters), table.concat(starts), table.concat(stops))
end
