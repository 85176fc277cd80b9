"""Services of a smart home: Wyoming and MQTT. Nothing else of the package needs them."""
