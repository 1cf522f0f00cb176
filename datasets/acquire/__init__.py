"""Getting data: where it comes from, downloading, unpacking, arranging, and checking what is there."""
