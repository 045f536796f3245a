"""What operators see and do: health, metrics, the dashboard, alarms to a webhook, the description of the API."""
