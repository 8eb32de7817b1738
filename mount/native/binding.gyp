{
  "targets": [
    {
      "target_name": "shoal_fuse",
      "sources": ["addon.c"],
      "cflags": ["-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
      "defines": ["_GNU_SOURCE"]
    }
  ]
}
