"""Plans that look for something, and the policies that choose where: raster, random, hill climb."""
