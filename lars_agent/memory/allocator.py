"""An allocator that gives memory back, for a process that is started with it."""

__all__ = ["THRIFTY_MALLOC"]

# glibc keeps freed blocks below a threshold that rises with what is freed, up to 32 MiB; a fixed one has every tensor
# mapped for itself and unmapped when it is freed. Other C libraries ignore these (mallopt(3)).
THRIFTY_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "2",
}
