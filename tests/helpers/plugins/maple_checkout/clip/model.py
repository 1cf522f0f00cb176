WHOSE = "maple_checkout"
