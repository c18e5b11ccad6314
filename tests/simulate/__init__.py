"""What a controller and a dispatcher can do, measured with simulated gateways, users and jobs: scripts/simulate."""
