// A module for Node.js, with node_api.h's declarations as far as they are needed: map(PATH) is an ArrayBuffer that is the
// file, mapped.
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct env *env;
typedef struct value *value;
typedef value function(env, void *);

int napi_get_cb_info(env, void *, size_t *, value *, value *, void **);
int napi_get_value_string_utf8(env, value, char *, size_t, size_t *);
int napi_create_external_arraybuffer(env, void *, size_t, void *, void *, value *);
int napi_create_function(env, const char *, size_t, function *, void *, value *);

enum { SIZE = 8192 };

static value map(env env, void *info)
{
    char path[4096];
    size_t count = 1;
    value argument, made = 0;
    napi_get_cb_info(env, info, &count, &argument, 0, 0);
    napi_get_value_string_utf8(env, argument, path, sizeof path, 0);
    int file = open(path, O_RDWR);
    void *device = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (device != MAP_FAILED)
        napi_create_external_arraybuffer(env, device, SIZE, 0, 0, &made);
    return made;
}

value napi_register_module_v1(env env, value exports)
{
    (void)exports;
    value made;
    napi_create_function(env, "map", 3, map, 0, &made);
    return made;
}
