/* A simulator of somebody's own: reads `width W`, `load L` from a file or options. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **arguments) {
    double width = 0, load = 0;
    const char *results = "", *mode = "";
    for (int i = 1; i < count; i++) {
        char *one = arguments[i], name[16];
        double value;
        if (sscanf(one, "--width=%lf", &width) == 1 || sscanf(one, "--load=%lf", &load) == 1)
            continue;
        if (strncmp(one, "--mode=", 7) == 0)
            mode = one + 7;
        else if (strcmp(one, "in.txt") == 0) {
            FILE *input = fopen(one, "r");
            if (!input)
                return 2;
            while (fscanf(input, "%15s %lf", name, &value) == 2)
                *(strcmp(name, "width") == 0 ? &width : &load) = value;
            fclose(input);
        } else
            results = one;
    }
    if (strcmp(mode, "nolicense") == 0) {
        fprintf(stderr, "amplifier: cannot check out a licence (-4,132)\n");
        return 1;
    }
    if (strcmp(mode, "diverge") == 0) {
        printf("no convergence after 100 iterations\n");
        return 0;
    }
    if (strcmp(mode, "crash") == 0) {
        fprintf(stderr, "width is odd\n");
        return 3;
    }
    if (strcmp(mode, "silent") == 0)
        return 0;
    double gain = 20 * log10(width * load), bandwidth = 250 / (width * load);
    printf("Gain = %.12g\nbandwidth = %.12g MHz\n", gain, bandwidth);
    FILE *output = *results && strcmp(results, "output") ? fopen(results, "w") : NULL;
    if (output && strstr(results, ".json"))
        fprintf(output, "{\"Gain\": %.12g, \"bandwidth\": %.12g}\n", gain, bandwidth);
    else if (output)
        fprintf(output, "Gain, bandwidth\n0, 0\n%.12g, %.12g\n", gain, bandwidth);
    return output ? fclose(output) : 0;
}
