"""The triton path: own GPU kernels over gathered marked keys and nearby keys, in one softmax."""
