{
  "targets": [
    {
      "target_name": "shoal_disk",
      "sources": ["disk.c"],
      "cflags": ["-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
      "defines": ["_GNU_SOURCE"]
    }
  ]
}
