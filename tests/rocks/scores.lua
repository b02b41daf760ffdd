-- Prints the BLOSUM62 scores of pairs: scores.lua FILE, with a mode and two sequences a line
local bio_compute = require("bio_compute")

for line in io.lines(arg[1]) do
  local mode, left, right = line:match("^(%S+)\t(%S+)\t(%S+)$")
  print(bio_compute.align_score(left, right, { mode = mode, matrix = "BLOSUM62" }))
end
