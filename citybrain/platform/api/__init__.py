"""The control API under `/api/v1`: thin routes over the services that `wiring.build` connects."""
